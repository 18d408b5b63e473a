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
    -- Whole milliseconds, as the API shows it, so that a page's cursor is exact.
    created_at  timestamptz NOT NULL DEFAULT date_trunc('milliseconds', instant()),
    -- The words of title and venue, split by the service, which splits the words of a search in the same way.
    words       tsvector    NOT NULL,
    -- The ticket as the API shows it: written once per change, read many times.
    shown       text        NOT NULL,

    -- A locked ticket has an order, and a free one has none.
    CONSTRAINT held_by_an_order CHECK ((status = 'available') = (order_id IS NULL))
);

-- Listings in each order that the API offers; only tickets that can be bought are in these indexes.
CREATE INDEX ticket_shelf_by_age ON ticket (created_at, id) WHERE status = 'available';
CREATE INDEX ticket_shelf_by_price ON ticket (price_cents, id) WHERE status = 'available';
-- Tickets without a date come last; '9999-12-31Z' is later than any date the table takes.
CREATE INDEX ticket_shelf_by_date ON ticket ((coalesce(event_date, '9999-12-31Z'::timestamptz)), id)
    WHERE status = 'available';
CREATE INDEX ticket_shelf_by_word ON ticket USING gin (words) WHERE status = 'available';

CREATE INDEX ticket_of_seller ON ticket (user_id, created_at, id);

-- One order holds one ticket.
CREATE UNIQUE INDEX one_ticket_per_order ON ticket (order_id) WHERE order_id IS NOT NULL;

-- The ticket as the API shows it. json_strip_nulls also removes the spaces; numeric keeps the price's two decimals.
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
        -- An edit leaves the ticket available, and a change of the lock leaves the offer as it is: the price of a
        -- locked ticket is the price of its order.
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

-- For every statement: versions grow by one, a sold ticket never changes, and a locked one is not edited.
CREATE TRIGGER guard_ticket BEFORE INSERT OR UPDATE ON ticket FOR EACH ROW EXECUTE FUNCTION guard_ticket();

-- A listed ticket is never deleted: orders and payments refer to it.
DO $$
DECLARE service text := nullif(current_setting('admitone.service_role', true), '');
BEGIN
    IF service IS NOT NULL THEN
        EXECUTE format('REVOKE DELETE ON ticket FROM %I', service);
    END IF;
END $$;
