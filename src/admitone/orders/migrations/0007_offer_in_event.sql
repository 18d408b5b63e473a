-- The data of OrderCreated: the order with its whole offer, so that a database which was restored to an earlier time can
-- be rebuilt from what was published since.
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
        'revision', one.ticket_revision,
        'title', one.title,
        'faceValueCents', one.face_value_cents,
        'eventDate', to_char(one.event_date AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'venue', one.venue,
        'section', one.section,
        'row', one."row",
        'seat', one.seat,
        'note', one.note
    )
))::text;
