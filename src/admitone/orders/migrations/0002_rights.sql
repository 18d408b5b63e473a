-- Orders and tickets stay: the trigger says so for every statement, this for the service.
DO $$
DECLARE service text := nullif(current_setting('admitone.service_role', true), '');
BEGIN
    IF service IS NOT NULL THEN
        EXECUTE format('REVOKE DELETE ON ticket, orders FROM %I', service);
    END IF;
END $$;
