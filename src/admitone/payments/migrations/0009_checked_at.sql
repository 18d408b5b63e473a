-- When Stripe last reported what is held for the payment, or what its buyer must do.
ALTER TABLE payment ADD COLUMN checked_at timestamptz;
UPDATE payment SET checked_at = instant() WHERE state IN ('requires_action', 'authorized');
