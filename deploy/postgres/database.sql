-- Grants rights in one service's database. A superuser runs it inside that database, which is named after the service and
-- owned by <service>_migrator. Idempotent. It grants the same rights as `admitone up`.
DO $$
DECLARE
    service  text := current_database();
    migrator text := current_database() || '_migrator';
    login    text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = service) THEN
        EXECUTE format('CREATE ROLE %I LOGIN', service);
    END IF;
    -- A statement of a service that takes longer has failed; its request has been answered by then.
    EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', service, '3s');
    EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', service, '1s');
    EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', service, '5s');

    -- What is logged of a failing statement quotes rows and parameters, such as e-mail addresses; log_error_verbosity does
    -- not prevent that in the formats csvlog and jsonlog. Clients report their errors. Slow statements are still logged,
    -- without their parameters.
    FOREACH login IN ARRAY ARRAY[service, migrator] LOOP
        EXECUTE format('ALTER ROLE %I SET log_min_messages = %L', login, 'log');
        EXECUTE format('ALTER ROLE %I SET log_parameter_max_length = %L', login, '0');
    END LOOP;

    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', service);
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', service, service);
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    EXECUTE format('GRANT CREATE, USAGE ON SCHEMA public TO %I', migrator);
    EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', service);
    -- Rows, not tables; a migration may revoke some of these rights.
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I',
                   migrator, service);
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA public GRANT USAGE ON SEQUENCES TO %I', migrator, service);
END $$;
