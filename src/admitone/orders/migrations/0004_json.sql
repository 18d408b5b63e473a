-- What the statement that reserves returns and publishes. The tests compare each with what the model produces.
-- json_strip_nulls also removes the spaces.

-- A new order as the API shows it.
CREATE FUNCTION shown_order(one orders) RETURNS text LANGUAGE sql STABLE
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
        'version', one.ticket_version
    )
))::text;

-- The data of OrderCreated.
CREATE FUNCTION order_created_event(one orders) RETURNS text LANGUAGE sql STABLE
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
        'currency', one.currency
    )
))::text;

-- The data of OrderCancelled.
CREATE FUNCTION order_cancelled_event(one orders) RETURNS text LANGUAGE sql STABLE
RETURN json_strip_nulls(json_build_object(
    'id', one.id,
    'version', one.version,
    'userId', one.buyer_id,
    'ticketId', one.ticket_id,
    'reason', one.cancel_reason
))::text;
