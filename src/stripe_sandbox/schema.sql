PRAGMA locking_mode = EXCLUSIVE;  -- one process at a time
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;      -- survives the end of the process, which is all that test money needs

-- Each object is kept as the JSON that the API returns; the other columns only find it.
CREATE TABLE IF NOT EXISTS object (
    number  INTEGER PRIMARY KEY,  -- orders objects that were created in the same second
    id      TEXT    NOT NULL UNIQUE,
    kind    TEXT    NOT NULL,     -- "payment_intent", "charge", "refund", "event" …
    created INTEGER NOT NULL,
    status  TEXT,
    body    TEXT    NOT NULL
);
CREATE INDEX IF NOT EXISTS object_list ON object (kind, created, number);
CREATE INDEX IF NOT EXISTS object_authorized ON object (created) WHERE status = 'requires_capture';

-- What lists are filtered by and searches look for: "type", "payment_intent", "metadata.order_id" …
CREATE TABLE IF NOT EXISTS field (
    name   TEXT    NOT NULL,
    value  TEXT    NOT NULL,
    number INTEGER NOT NULL REFERENCES object,
    PRIMARY KEY (name, value, number)
) WITHOUT ROWID;

-- Events that the webhook endpoint has not accepted yet.
CREATE TABLE IF NOT EXISTS delivery (
    event_id TEXT    PRIMARY KEY,
    attempts INTEGER NOT NULL,    -- so far
    due_at   REAL    NOT NULL
) WITHOUT ROWID;

-- The first reply to each idempotency key, saved in the transaction of its effect; valid for a day.
CREATE TABLE IF NOT EXISTS reply (
    key         TEXT    NOT NULL UNIQUE,
    fingerprint BLOB    NOT NULL,  -- of the request
    created     INTEGER NOT NULL,
    status      INTEGER NOT NULL,
    body        TEXT    NOT NULL,
    request_id  TEXT    NOT NULL
);
