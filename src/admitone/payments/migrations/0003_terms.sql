-- The columns carry the terms of the documentation.
ALTER TABLE orders RENAME COLUMN user_id TO buyer_id;
ALTER TABLE payment RENAME COLUMN user_id TO buyer_id;
ALTER TABLE payment RENAME COLUMN request_key TO idempotency_key;
-- `checked` (its payment was read again at Stripe), `known` (nothing new), `unknown object`, or in what it differs from
-- its payment, for which it was not trusted.
ALTER TABLE webhook RENAME COLUMN finding TO outcome;

-- A late message does not undo what happened at Stripe: a payment's state only moves forward, and what it is for is fixed.
CREATE OR REPLACE FUNCTION guard_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.order_id, NEW.attempt, NEW.buyer_id, NEW.amount_cents, NEW.currency)
       IS DISTINCT FROM (OLD.id, OLD.order_id, OLD.attempt, OLD.buyer_id, OLD.amount_cents, OLD.currency) THEN
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
