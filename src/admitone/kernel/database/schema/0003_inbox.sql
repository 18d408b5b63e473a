-- Events this service has consumed: the row is written in the transaction of the effect, so an event has one effect.
CREATE TABLE inbox (
    id          uuid        PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT instant()
);
CREATE INDEX inbox_age ON inbox (received_at);

-- Events whose handler failed. While `given_up_at` is NULL the bus delivers them again; then an operator decides.
CREATE TABLE dead_letter (
    id              text        PRIMARY KEY,
    subject         text        NOT NULL,
    message         bytea       NOT NULL,
    attempts        integer     NOT NULL,
    error           text        NOT NULL,
    first_failed_at timestamptz NOT NULL DEFAULT instant(),
    last_failed_at  timestamptz NOT NULL DEFAULT instant(),
    given_up_at     timestamptz
);

-- The version that each aggregate of another service has reached here.
CREATE TABLE followed (
    aggregate uuid    PRIMARY KEY,
    version   integer NOT NULL
);
