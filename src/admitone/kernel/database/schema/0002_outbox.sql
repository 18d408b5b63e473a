-- Events this service publishes, written in the transaction of the change. The relay sends them to the bus.
CREATE TABLE outbox (
    position        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              uuid        NOT NULL,
    type            text        NOT NULL,
    aggregate       uuid        NOT NULL,
    version         integer,
    data            text        NOT NULL,
    traceparent     text,
    recorded_at     timestamptz NOT NULL DEFAULT instant(),
    -- The stream sequence with which the bus acknowledged the event; NULL while it is unpublished.
    stream_sequence bigint,
    -- How often it was published again: part of the message id, or the bus would drop the copy as a duplicate.
    copies          integer     NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX outbox_unpublished ON outbox (position) WHERE stream_sequence IS NULL;
CREATE INDEX outbox_published ON outbox (stream_sequence) WHERE stream_sequence IS NOT NULL;
CREATE INDEX outbox_aggregate ON outbox (aggregate, version);
CREATE INDEX outbox_age ON outbox (recorded_at);

-- Published events cannot be rewritten: the service may only record their acknowledgement and delete old ones.
DO $$
DECLARE service text := nullif(current_setting('admitone.service_role', true), '');
BEGIN
    IF service IS NOT NULL THEN
        EXECUTE format('REVOKE UPDATE ON outbox FROM %I', service);
        EXECUTE format('GRANT UPDATE (stream_sequence, copies) ON outbox TO %I', service);
    END IF;
END $$;
