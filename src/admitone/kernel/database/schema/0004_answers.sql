-- Responses to creating requests by the caller's Idempotency-Key, stored in the transaction of the effect.
CREATE TABLE answer (
    person       uuid        NOT NULL,
    key          text        NOT NULL,
    request_hash bytea       NOT NULL,
    status       smallint    NOT NULL,
    body         text        NOT NULL,
    given_at     timestamptz NOT NULL DEFAULT instant(),
    PRIMARY KEY (person, key)
);
CREATE INDEX answer_age ON answer (given_at);
