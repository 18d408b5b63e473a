-- Replicas of the tickets; versions are applied one at a time.
CREATE TABLE ticket (
    id          uuid    PRIMARY KEY,
    version     integer NOT NULL CHECK (version >= 0),
    title       text    NOT NULL,
    price_cents bigint  NOT NULL CHECK (price_cents > 0),
    currency    text    NOT NULL,
    seller_id   uuid    NOT NULL,
    status      text    NOT NULL CHECK (status IN ('available', 'reserved', 'sold')),
    -- The order for which tickets has confirmed the lock.
    order_id    uuid
);

CREATE TABLE orders (
    id             uuid        PRIMARY KEY,
    version        integer     NOT NULL DEFAULT 0 CHECK (version >= 0),
    status         text        NOT NULL DEFAULT 'created'
                   CHECK (status IN ('created', 'awaiting:payment', 'complete', 'cancelled')),
    user_id        uuid        NOT NULL,
    ticket_id      uuid        NOT NULL,
    -- The ticket as it was when the order was created: an order keeps its price.
    ticket_version integer     NOT NULL,
    title          text        NOT NULL,
    price_cents    bigint      NOT NULL CHECK (price_cents > 0),
    currency       text        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT instant(),
    expires_at     timestamptz NOT NULL,
    payment_id     uuid,
    cancel_reason  text,
    -- An order that awaits or has received money names the payment.
    CHECK (payment_id IS NOT NULL OR status IN ('created', 'cancelled')),
    CHECK ((cancel_reason IS NOT NULL) = (status = 'cancelled'))
);

-- One ticket, one holder: a ticket has at most one order that is live or complete.
CREATE UNIQUE INDEX one_live_order_per_ticket ON orders (ticket_id)
    WHERE status IN ('created', 'awaiting:payment', 'complete');

CREATE INDEX orders_of_user ON orders (user_id, id DESC);
CREATE INDEX orders_by_deadline ON orders (expires_at) WHERE status = 'created';

CREATE FUNCTION guard_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('complete', 'cancelled') THEN
        RAISE EXCEPTION 'order % is % and never changes', OLD.id, OLD.status;
    END IF;
    IF NEW.version <> OLD.version + 1 THEN
        RAISE EXCEPTION 'order % goes from version % to %', OLD.id, OLD.version, NEW.version;
    END IF;
    IF (NEW.id, NEW.user_id, NEW.ticket_id, NEW.ticket_version, NEW.price_cents, NEW.currency, NEW.expires_at)
       IS DISTINCT FROM
       (OLD.id, OLD.user_id, OLD.ticket_id, OLD.ticket_version, OLD.price_cents, OLD.currency, OLD.expires_at) THEN
        RAISE EXCEPTION 'order % cannot change its buyer, ticket, price or deadline', OLD.id;
    END IF;
    IF OLD.status = 'awaiting:payment' AND NEW.status = 'created' THEN
        RAISE EXCEPTION 'order % cannot go back to created', OLD.id;
    END IF;
    RETURN NEW;
END $$;

-- For every statement: final states never change and versions grow by one.
CREATE TRIGGER guard_order BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION guard_order();

CREATE FUNCTION keep_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'orders are never deleted';
END $$;
CREATE TRIGGER keep_order BEFORE DELETE ON orders FOR EACH ROW EXECUTE FUNCTION keep_order();

-- A time in JSON: ISO 8601, UTC, milliseconds.
CREATE FUNCTION json_time(moment timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
