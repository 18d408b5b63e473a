-- Records of money are permanent: the service cannot delete orders or payments, and can change the installation and
-- the webhooks only where they are expected to change.
DO $$
DECLARE service text := nullif(current_setting('admitone.service_role', true), '');
BEGIN
    IF service IS NOT NULL THEN
        EXECUTE format('REVOKE DELETE ON orders, payment FROM %I', service);
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON installation FROM %I', service);
        EXECUTE format('GRANT UPDATE (reconciled_until) ON installation TO %I', service);
        EXECUTE format('REVOKE UPDATE ON webhook FROM %I', service);
        EXECUTE format('GRANT UPDATE (processed_at, finding) ON webhook TO %I', service);
    END IF;
END $$;
