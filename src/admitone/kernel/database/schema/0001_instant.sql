-- The one clock of this database's decisions: the transaction's start. A simulation sets `admitone.instant` to
-- skew it; nobody else does, and then this is now().
CREATE FUNCTION instant() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(nullif(current_setting('admitone.instant', true), '')::timestamptz, now());
