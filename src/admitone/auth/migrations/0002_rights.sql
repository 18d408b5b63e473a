-- The service can neither delete an account nor change its id.
DO $$
DECLARE service text := nullif(current_setting('admitone.service_role', true), '');
BEGIN
    IF service IS NOT NULL THEN
        EXECUTE format('REVOKE DELETE, UPDATE ON account FROM %I', service);
        EXECUTE format('GRANT UPDATE (email, password_hash, version) ON account TO %I', service);
    END IF;
END $$;
