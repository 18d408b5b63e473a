-- Up to when Stripe's list was compared is by Stripe's clock now. It was by this database's, which may have been ahead.
UPDATE installation SET reconciled_until = reconciled_until - interval '1 hour';
