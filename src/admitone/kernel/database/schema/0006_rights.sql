-- Consumed events, stored responses and applied migrations cannot be rewritten: an attacker with the service's
-- privileges must not be able to change its history.
DO $$
DECLARE service text := nullif(current_setting('admitone.service_role', true), '');
BEGIN
    IF service IS NOT NULL THEN
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON applied_migration FROM %I', service);
        EXECUTE format('REVOKE UPDATE ON inbox, answer, revoked_session FROM %I', service);
        EXECUTE format('REVOKE DELETE ON followed FROM %I', service);
    END IF;
END $$;
