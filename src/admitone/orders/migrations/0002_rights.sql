-- Orders and tickets are never deleted: a trigger prevents it for everybody, the missing right for the service.
DO $$
DECLARE service text := nullif(current_setting('admitone.service_role', true), '');
BEGIN
    IF service IS NOT NULL THEN
        EXECUTE format('REVOKE DELETE ON ticket, orders FROM %I', service);
    END IF;
END $$;
