-- Events this service has taken in: the row is written in the transaction of the effect, so an event has one effect.
CREATE TABLE inbox (
    id          uuid        PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT instant()
);
CREATE INDEX inbox_age ON inbox (received_at);

-- Events whose handling failed. While `given_up_at` is NULL the bus delivers them again; afterwards people decide.
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

-- How far this service has followed each aggregate of another service.
CREATE TABLE followed (
    aggregate uuid    PRIMARY KEY,
    version   integer NOT NULL
);
