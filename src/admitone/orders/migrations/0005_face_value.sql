-- The price printed on the ticket, if the seller said it; an order keeps it as it was at the hold.
ALTER TABLE ticket ADD COLUMN face_value_cents bigint;
ALTER TABLE orders ADD COLUMN face_value_cents bigint;

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
        'faceValue', one.face_value_cents * 0.01
    )
))::text;
