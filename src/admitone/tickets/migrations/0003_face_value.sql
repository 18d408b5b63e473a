-- The price printed on the ticket, in minor units, if the seller says it. A free ticket has 0.
ALTER TABLE ticket ADD COLUMN face_value_cents integer CHECK (face_value_cents BETWEEN 0 AND 99999999);

-- The ticket as the API shows it. json_strip_nulls also removes the spaces; numeric keeps the price's two decimals.
CREATE OR REPLACE FUNCTION shown_ticket(one ticket) RETURNS text LANGUAGE sql STABLE
RETURN json_strip_nulls(json_build_object(
    'id', one.id,
    'title', one.title,
    'price', one.price_cents * 0.01,
    'faceValue', one.face_value_cents * 0.01,
    'currency', one.currency,
    'userId', one.seller_id,
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
