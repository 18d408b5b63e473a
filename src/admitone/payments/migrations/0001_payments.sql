-- Identifies this installation. Stripe stores the id with each payment, so that two installations that share a Stripe
-- account never mistake each other's payments for their own.
CREATE TABLE installation (
    id      uuid    PRIMARY KEY DEFAULT gen_random_uuid(),
    is_only boolean NOT NULL DEFAULT true UNIQUE CHECK (is_only),
    -- Up to when Stripe's list of payments has been compared with ours.
    reconciled_until timestamptz NOT NULL DEFAULT now()
);
INSERT INTO installation DEFAULT VALUES;

-- Replicas of orders: whether, by whom, how much and until when each may be paid.
CREATE TABLE orders (
    id          uuid        PRIMARY KEY,
    version     integer     NOT NULL CHECK (version >= 0),
    status      text        NOT NULL CHECK (status IN ('created', 'awaiting:payment', 'cancelled')),
    user_id     uuid        NOT NULL,
    price_cents bigint      NOT NULL CHECK (price_cents > 0),
    currency    text        NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    expires_at  timestamptz NOT NULL
);

-- One attempt to pay an order. It is written before the first request to Stripe, so that every payment is known here.
CREATE TABLE payment (
    id            uuid        PRIMARY KEY,
    order_id      uuid        NOT NULL REFERENCES orders,
    attempt       smallint    NOT NULL CHECK (attempt > 0),
    user_id       uuid        NOT NULL,
    amount_cents  bigint      NOT NULL CHECK (amount_cents > 0),
    currency      text        NOT NULL,
    -- Identifies the card at Stripe; it is not a card number and is useless without our secret key.
    token         text        NOT NULL,
    -- The buyer's Idempotency-Key.
    request_key   text,
    state         text        NOT NULL DEFAULT 'created' CHECK (state IN
                  ('created', 'requires_action', 'authorized', 'captured', 'voided', 'failed', 'refunded')),
    -- What must be done at Stripe; it stays until Stripe reports it done.
    wanted        text        CHECK (wanted IN ('capture', 'void', 'refund')),
    stripe_id     text        UNIQUE,
    client_secret text,
    action_url    text,
    reason_code   text,
    reason        text,
    -- When the background job looks at this payment next, and how often it has since something was last wanted.
    due_at        timestamptz,
    tries         integer     NOT NULL DEFAULT 0,
    -- The trace of the request or event that last wanted something.
    traceparent   text,
    created_at    timestamptz NOT NULL DEFAULT instant(),
    UNIQUE (order_id, attempt),
    CHECK ((reason IS NOT NULL) = (state = 'failed')),
    CHECK (stripe_id IS NOT NULL OR state IN ('created', 'voided', 'failed')),
    CHECK (wanted IS DISTINCT FROM 'capture' OR state = 'authorized')
);

-- One order, one charge: while a payment is in progress or captured there is no second one, whatever the code does.
CREATE UNIQUE INDEX one_live_payment_per_order ON payment (order_id)
    WHERE state IN ('created', 'requires_action', 'authorized', 'captured');
CREATE UNIQUE INDEX one_taken_payment_per_order ON payment (order_id) WHERE state IN ('captured', 'refunded');
CREATE UNIQUE INDEX one_payment_per_request ON payment (user_id, request_key) WHERE request_key IS NOT NULL;
CREATE INDEX payment_due ON payment (due_at) WHERE due_at IS NOT NULL;

CREATE FUNCTION guard_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.order_id, NEW.attempt, NEW.user_id, NEW.amount_cents, NEW.currency)
       IS DISTINCT FROM (OLD.id, OLD.order_id, OLD.attempt, OLD.user_id, OLD.amount_cents, OLD.currency) THEN
        RAISE EXCEPTION 'payment % cannot change its order, buyer or amount', OLD.id;
    END IF;
    IF OLD.stripe_id IS NOT NULL AND NEW.stripe_id IS DISTINCT FROM OLD.stripe_id THEN
        RAISE EXCEPTION 'payment % is % at Stripe and nothing else', OLD.id, OLD.stripe_id;
    END IF;
    IF NEW.state <> OLD.state AND NEW.state <> ALL (CASE OLD.state
        WHEN 'created' THEN ARRAY['requires_action', 'authorized', 'captured', 'voided', 'failed']
        WHEN 'requires_action' THEN ARRAY['authorized', 'captured', 'voided', 'failed']
        WHEN 'authorized' THEN ARRAY['captured', 'voided', 'failed']
        WHEN 'captured' THEN ARRAY['refunded']
        ELSE ARRAY[]::text[]
    END) THEN
        RAISE EXCEPTION 'payment % goes from % to %', OLD.id, OLD.state, NEW.state;
    END IF;
    RETURN NEW;
END $$;

-- A late message does not undo what happened at Stripe: a payment's state only moves forward.
CREATE TRIGGER guard_payment BEFORE UPDATE ON payment FOR EACH ROW EXECUTE FUNCTION guard_payment();

CREATE FUNCTION keep_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'payments are never deleted';
END $$;
CREATE TRIGGER keep_payment BEFORE DELETE ON payment FOR EACH ROW EXECUTE FUNCTION keep_payment();

-- Webhooks as they arrived: each is stored before it is acknowledged, and processed afterwards.
CREATE TABLE webhook (
    number       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source       text        NOT NULL,
    event_id     text        NOT NULL,
    body         text        NOT NULL,
    received_at  timestamptz NOT NULL DEFAULT instant(),
    processed_at timestamptz,
    -- What processing it led to.
    finding      text,
    UNIQUE (source, event_id)
);
CREATE INDEX webhook_waiting ON webhook (number) WHERE processed_at IS NULL;
CREATE INDEX webhook_age ON webhook (received_at);
