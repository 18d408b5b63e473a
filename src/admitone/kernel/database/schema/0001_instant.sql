-- The clock of every decision in this database: the start of the transaction, now(). Only the simulation sets
-- `admitone.instant`, to skew it.
CREATE FUNCTION instant() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(nullif(current_setting('admitone.instant', true), '')::timestamptz, now());
