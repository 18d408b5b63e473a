-- Every ticket that was ever listed, with its price and its lock.
CREATE TABLE ticket (
    id          uuid        PRIMARY KEY,
    version     integer     NOT NULL DEFAULT 0,
    user_id     uuid        NOT NULL,
    title       text        NOT NULL CHECK (char_length(title) BETWEEN 1 AND 200),
    -- In minor units. The payment provider charges neither less than 0.50 nor more than 999999.99.
    price_cents integer     NOT NULL CHECK (price_cents BETWEEN 50 AND 99999999),
    currency    text        NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    event_date  timestamptz CHECK (event_date BETWEEN '2000-01-01Z' AND '2200-01-01Z'),
    venue       text        CHECK (char_length(venue) BETWEEN 1 AND 200),
    section     text        CHECK (char_length(section) BETWEEN 1 AND 40),
    "row"       text        CHECK (char_length("row") BETWEEN 1 AND 40),
    seat        text        CHECK (char_length(seat) BETWEEN 1 AND 40),
    note        text        CHECK (char_length(note) BETWEEN 1 AND 500),
    status      text        NOT NULL DEFAULT 'available' CHECK (status IN ('available', 'reserved', 'sold')),
    -- The order that holds the ticket, or has bought it.
    order_id    uuid,
    -- Whole milliseconds, as the API shows it: a page's cursor then says exactly where the page ended.
    created_at  timestamptz NOT NULL DEFAULT date_trunc('milliseconds', instant()),
    -- The words of title and venue as the service splits them, so that a search splits no other way.
    words       tsvector    NOT NULL,
    -- The ticket as the API shows it: written once per change, and sent as it is thousands of times.
    shown       text        NOT NULL,

    -- A lock has a holder, and what nobody holds is free: a lock can neither be forgotten nor linger.
    CONSTRAINT held_by_an_order CHECK ((status = 'available') = (order_id IS NULL))
);

-- The shelf, in each order it can be asked for; what cannot be bought is in none of these.
CREATE INDEX ticket_shelf_by_age ON ticket (created_at, id) WHERE status = 'available';
CREATE INDEX ticket_shelf_by_price ON ticket (price_cents, id) WHERE status = 'available';
-- Tickets without a date come last; '9999-12-31Z' is later than any date the table takes.
CREATE INDEX ticket_shelf_by_date ON ticket ((coalesce(event_date, '9999-12-31Z'::timestamptz)), id)
    WHERE status = 'available';
CREATE INDEX ticket_shelf_by_word ON ticket USING gin (words) WHERE status = 'available';

CREATE INDEX ticket_of_seller ON ticket (user_id, created_at, id);

-- One order holds one ticket, so no event about an order can ever speak of two.
CREATE UNIQUE INDEX one_ticket_per_order ON ticket (order_id) WHERE order_id IS NOT NULL;

-- The ticket as the API shows it. Compact, because json_strip_nulls writes it anew without spaces; the price keeps
-- its two places, because numeric does.
CREATE FUNCTION shown_ticket(one ticket) RETURNS text LANGUAGE sql STABLE
RETURN json_strip_nulls(json_build_object(
    'id', one.id,
    'title', one.title,
    'price', one.price_cents * 0.01,
    'currency', one.currency,
    'userId', one.user_id,
    'version', one.version,
    'status', one.status,
    'orderId', one.order_id,
    'eventDate', to_char(one.event_date AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    'venue', one.venue,
    'section', one.section,
    'row', one."row",
    'seat', one.seat,
    'note', one.note,
    'createdAt', to_char(one.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
))::text;

CREATE FUNCTION guard_ticket() RETURNS trigger LANGUAGE plpgsql AS $$
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
        IF (NEW.id, NEW.user_id, NEW.currency, NEW.created_at)
           IS DISTINCT FROM (OLD.id, OLD.user_id, OLD.currency, OLD.created_at) THEN
            RAISE EXCEPTION 'ticket % cannot change its seller, currency or age', OLD.id;
        END IF;
        -- An edit leaves the ticket available. Whatever touches a lock leaves what is offered as it is: the price of
        -- a locked ticket is the price of its order.
        IF (OLD.status <> 'available' OR NEW.status <> 'available')
           AND (NEW.title, NEW.price_cents, NEW.event_date, NEW.venue, NEW.section, NEW."row", NEW.seat, NEW.note)
               IS DISTINCT FROM
               (OLD.title, OLD.price_cents, OLD.event_date, OLD.venue, OLD.section, OLD."row", OLD.seat, OLD.note) THEN
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

-- Versions grow by one, sold is the end, and a locked ticket is not edited: said once, for every statement to come.
CREATE TRIGGER guard_ticket BEFORE INSERT OR UPDATE ON ticket FOR EACH ROW EXECUTE FUNCTION guard_ticket();

-- A ticket that was listed stays: orders and payments speak of it.
DO $$
DECLARE service text := nullif(current_setting('admitone.service_role', true), '');
BEGIN
    IF service IS NOT NULL THEN
        EXECUTE format('REVOKE DELETE ON ticket FROM %I', service);
    END IF;
END $$;
