-- Orders that may expire. A row is deleted when the order is paid for or has ended.
CREATE TABLE deadline (
    order_id     uuid        PRIMARY KEY,
    expires_at   timestamptz NOT NULL,
    next_ring_at timestamptz NOT NULL,
    rings        integer     NOT NULL DEFAULT 0
);
CREATE INDEX deadline_next ON deadline (next_ring_at);
