-- An order keeps everything it was made for, and names the revision of the ticket that it may lock.
ALTER TABLE ticket
    ADD COLUMN revision   integer NOT NULL DEFAULT 0,
    ADD COLUMN event_date timestamptz,
    ADD COLUMN venue      text,
    ADD COLUMN section    text,
    ADD COLUMN "row"      text,
    ADD COLUMN seat       text,
    ADD COLUMN note       text;
ALTER TABLE orders
    ADD COLUMN ticket_revision integer NOT NULL DEFAULT 0,
    ADD COLUMN event_date      timestamptz,
    ADD COLUMN venue           text,
    ADD COLUMN section         text,
    ADD COLUMN "row"           text,
    ADD COLUMN seat            text,
    ADD COLUMN note            text;

-- A new order as the API shows it.
CREATE OR REPLACE FUNCTION shown_order(one orders) RETURNS text LANGUAGE sql STABLE
RETURN json_strip_nulls(json_build_object(
    'id', one.id,
    'userId', one.buyer_id,
    'status', one.status,
    'createdAt', json_time(one.created_at),
    'expiresAt', json_time(one.expires_at),
    'now', json_time(one.created_at),
    'version', one.version,
    'ticket', json_build_object(
        'id', one.ticket_id,
        'title', one.title,
        'price', one.price_cents * 0.01,
        'currency', one.currency,
        'version', one.ticket_version,
        'faceValue', one.face_value_cents * 0.01,
        'eventDate', to_char(one.event_date AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        'venue', one.venue,
        'section', one.section,
        'row', one."row",
        'seat', one.seat,
        'note', one.note
    )
))::text;

-- The data of OrderCreated.
CREATE OR REPLACE FUNCTION order_created_event(one orders) RETURNS text LANGUAGE sql STABLE
RETURN json_strip_nulls(json_build_object(
    'id', one.id,
    'version', one.version,
    'status', one.status,
    'userId', one.buyer_id,
    'expiresAt', json_time(one.expires_at),
    'ticket', json_build_object(
        'id', one.ticket_id,
        'version', one.ticket_version,
        'priceCents', one.price_cents,
        'currency', one.currency,
        'revision', one.ticket_revision
    )
))::text;
