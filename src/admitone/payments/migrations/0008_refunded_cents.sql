-- What was returned of the payment at Stripe, by us or in its dashboard.
ALTER TABLE payment ADD COLUMN refunded_cents bigint NOT NULL DEFAULT 0
    CHECK (refunded_cents BETWEEN 0 AND amount_cents);
UPDATE payment SET refunded_cents = amount_cents WHERE state = 'refunded';
