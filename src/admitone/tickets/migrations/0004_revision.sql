-- How often the seller has edited the ticket. An order locks the revision that its buyer saw, or none; the version does
-- not tell revisions apart, because it also changes with the lock.
ALTER TABLE ticket ADD COLUMN revision integer NOT NULL DEFAULT 0 CHECK (revision >= 0);

-- As before; and every edit, and nothing else, is a new revision.
CREATE OR REPLACE FUNCTION guard_ticket() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rest ticket := NEW;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.version <> 0 OR NEW.revision <> 0 OR NEW.status <> 'available' THEN
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
        IF OLD.status = 'available' AND NEW.status = 'available' THEN
            IF NEW.revision <> OLD.revision + 1 THEN
                RAISE EXCEPTION 'ticket % is edited from revision % to %', OLD.id, OLD.revision, NEW.revision;
            END IF;
        ELSE
            -- A change of the lock changes nothing else: a locked ticket is what its order was made for.
            rest.version := OLD.version;
            rest.status := OLD.status;
            rest.order_id := OLD.order_id;
            rest.shown := OLD.shown;
            IF rest IS DISTINCT FROM OLD THEN
                RAISE EXCEPTION 'ticket % is locked and cannot be edited', OLD.id;
            END IF;
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
