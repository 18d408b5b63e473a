-- Intents at Stripe with this installation's id that no payment here knows: this database was restored to an earlier time,
-- or it is a copy of the one that knows them. They are canceled only if an operator allowed it, for intents created
-- before a moment; a row is deleted when Stripe holds and keeps nothing for its intent any more.
CREATE TABLE unknown_intent (
    stripe_id  text        PRIMARY KEY,
    -- By Stripe's clock.
    created_at timestamptz NOT NULL
);
ALTER TABLE installation ADD COLUMN cancel_unknown_before timestamptz;
