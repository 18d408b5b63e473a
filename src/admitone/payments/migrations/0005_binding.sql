-- What this data belongs to: the database it is in, and the account of Stripe, with its mode, that its payments are in.
-- The service records both when it first starts, and then only acts on Stripe with the same; `admitone adopt` changes
-- them. So a copy of the data does not settle, void or refund the payments of its original.
ALTER TABLE installation ADD COLUMN database text, ADD COLUMN stripe_account text;

-- Which database this is: the cluster's identifier, and the database's in it. A dump that is restored elsewhere gets
-- another one; a physical copy of the cluster has the same.
CREATE FUNCTION present_database() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT system_identifier || '/' || pg_database.oid
    FROM pg_control_system(), pg_database WHERE datname = current_database()
$$;

DO $$
DECLARE service text := nullif(current_setting('admitone.service_role', true), '');
BEGIN
    IF service IS NOT NULL THEN
        EXECUTE format('GRANT UPDATE (database, stripe_account) ON installation TO %I', service);
    END IF;
END $$;
