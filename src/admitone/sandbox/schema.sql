-- Objects are kept as the JSON that the API answers; columns beside it only find them.

CREATE TABLE IF NOT EXISTS payment_intent (
    number         bigint GENERATED ALWAYS AS IDENTITY,
    id             text   PRIMARY KEY,
    created        bigint NOT NULL,
    -- Until when an authorisation holds; NULL when there is none.
    capture_before bigint,
    body           jsonb  NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS payment_intent_number ON payment_intent (number);
CREATE INDEX IF NOT EXISTS payment_intent_metadata ON payment_intent USING gin ((body -> 'metadata') jsonb_path_ops);
CREATE INDEX IF NOT EXISTS payment_intent_authorised ON payment_intent (capture_before) WHERE capture_before IS NOT NULL;

CREATE TABLE IF NOT EXISTS refund (
    number         bigint GENERATED ALWAYS AS IDENTITY,
    id             text   PRIMARY KEY,
    created        bigint NOT NULL,
    payment_intent text   NOT NULL REFERENCES payment_intent,
    body           jsonb  NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS refund_number ON refund (number);
CREATE INDEX IF NOT EXISTS refund_payment_intent ON refund (payment_intent);

CREATE TABLE IF NOT EXISTS confirmation_token (
    id      text    PRIMARY KEY,
    is_used boolean NOT NULL DEFAULT false,
    body    jsonb   NOT NULL
);

CREATE TABLE IF NOT EXISTS event (
    number          bigint GENERATED ALWAYS AS IDENTITY,
    id              text   PRIMARY KEY,
    created         bigint NOT NULL,
    type            text   NOT NULL,
    body            text   NOT NULL,
    -- How often the webhook endpoint was tried; when it is tried next, NULL once it took the event or was given up.
    tries           integer NOT NULL DEFAULT 0,
    next_try_at     timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS event_number ON event (number);
CREATE INDEX IF NOT EXISTS event_waiting ON event (next_try_at) WHERE next_try_at IS NOT NULL;

-- The first answer to each idempotency key, written with the effect it answers.
CREATE TABLE IF NOT EXISTS answer (
    key         text        PRIMARY KEY,
    path        text        NOT NULL,
    fingerprint bytea       NOT NULL,
    status      smallint    NOT NULL,
    body        text        NOT NULL,
    request_id  text        NOT NULL,
    given_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS answer_age ON answer (given_at);
