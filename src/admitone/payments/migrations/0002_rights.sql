-- Money that moved stays on the books: nothing about a payment, its order or Stripe's own words can be deleted or
-- rewritten, but for what is expected to change.
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
