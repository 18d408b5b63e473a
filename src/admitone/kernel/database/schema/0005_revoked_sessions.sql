-- Sessions that ended before their token expires; `noticed` lets each process read only the rows it has not seen.
CREATE TABLE revoked_session (
    session_id uuid        PRIMARY KEY,
    noticed    bigint      GENERATED ALWAYS AS IDENTITY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX revoked_session_noticed ON revoked_session (noticed);
