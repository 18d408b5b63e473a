-- The column and the indexes carry the terms of the code. `shown_ticket` follows the renamed column by itself.
ALTER TABLE ticket RENAME COLUMN user_id TO seller_id;
ALTER INDEX ticket_shelf_by_age RENAME TO listing_by_age;
ALTER INDEX ticket_shelf_by_price RENAME TO listing_by_price;
ALTER INDEX ticket_shelf_by_date RENAME TO listing_by_date;
ALTER INDEX ticket_shelf_by_word RENAME TO listing_by_word;

-- As before, with the new name; and a lock now keeps every column, also those that are added later.
CREATE OR REPLACE FUNCTION guard_ticket() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rest ticket := NEW;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.version <> 0 OR NEW.status <> 'available' THEN
            RAISE EXCEPTION 'ticket % does not begin at version 0 and available', NEW.id;
        END IF;
    ELSE
        IF OLD.status = 'sold' THEN
            RAISE EXCEPTION 'ticket % is sold and never changes', OLD.id;
        END IF;
        IF NEW.version <> OLD.version + 1 THEN
            RAISE EXCEPTION 'ticket % goes from version % to %', OLD.id, OLD.version, NEW.version;
        END IF;
        IF (NEW.id, NEW.seller_id, NEW.currency, NEW.created_at)
           IS DISTINCT FROM (OLD.id, OLD.seller_id, OLD.currency, OLD.created_at) THEN
            RAISE EXCEPTION 'ticket % cannot change its seller, currency or age', OLD.id;
        END IF;
        -- An edit leaves the ticket available, and a change of the lock changes nothing else: the price of a locked
        -- ticket is the price of its order.
        rest.version := OLD.version;
        rest.status := OLD.status;
        rest.order_id := OLD.order_id;
        rest.shown := OLD.shown;
        IF (OLD.status <> 'available' OR NEW.status <> 'available') AND rest IS DISTINCT FROM OLD THEN
            RAISE EXCEPTION 'ticket % is locked and cannot be edited', OLD.id;
        END IF;
        IF OLD.status = 'available' AND NEW.status = 'sold' THEN
            RAISE EXCEPTION 'ticket % is sold to nobody who holds it', OLD.id;
        END IF;
        IF OLD.status = 'reserved' AND NEW.order_id IS NOT NULL
           AND (NEW.status = 'reserved' OR NEW.order_id <> OLD.order_id) THEN
            RAISE EXCEPTION 'ticket % is held by another order', OLD.id;
        END IF;
    END IF;
    NEW.shown := shown_ticket(NEW);
    RETURN NEW;
END $$;
