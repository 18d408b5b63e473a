-- Sessions that were ended before their token expires; `noticed` lets every process of the service read only news.
CREATE TABLE revoked_session (
    session_id uuid        PRIMARY KEY,
    noticed    bigint      GENERATED ALWAYS AS IDENTITY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX revoked_session_noticed ON revoked_session (noticed);
