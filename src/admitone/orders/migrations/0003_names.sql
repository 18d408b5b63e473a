-- The column and the index carry the terms of the code.
ALTER TABLE orders RENAME COLUMN user_id TO buyer_id;
ALTER INDEX orders_of_user RENAME TO orders_of_buyer;

-- As before, but comparing the whole row, so that no column added later can be forgotten.
CREATE OR REPLACE FUNCTION guard_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rest orders := NEW;
BEGIN
    IF OLD.status IN ('complete', 'cancelled') THEN
        RAISE EXCEPTION 'order % is % and never changes', OLD.id, OLD.status;
    END IF;
    IF NEW.version <> OLD.version + 1 THEN
        RAISE EXCEPTION 'order % goes from version % to %', OLD.id, OLD.version, NEW.version;
    END IF;
    rest.version := OLD.version;
    rest.status := OLD.status;
    rest.payment_id := OLD.payment_id;
    rest.cancel_reason := OLD.cancel_reason;
    IF rest IS DISTINCT FROM OLD THEN
        RAISE EXCEPTION 'order % cannot change its buyer, ticket, price or deadline', OLD.id;
    END IF;
    IF OLD.status = 'awaiting:payment' AND NEW.status = 'created' THEN
        RAISE EXCEPTION 'order % cannot go back to created', OLD.id;
    END IF;
    RETURN NEW;
END $$;
