-- How often Stripe has refused the capture; after too many refusals it is given up and the hold released.
ALTER TABLE payment ADD COLUMN refusals integer NOT NULL DEFAULT 0;
