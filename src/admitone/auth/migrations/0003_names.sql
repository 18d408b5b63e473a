-- The table and columns carry the terms of the documentation.
ALTER TABLE session RENAME COLUMN place TO network;

ALTER TABLE tries RENAME TO attempts;
ALTER TABLE attempts RENAME COLUMN about TO key;
ALTER TABLE attempts RENAME CONSTRAINT tries_pkey TO attempts_pkey;
ALTER TABLE attempts RENAME CONSTRAINT count_is_no_debt TO count_is_not_negative;
ALTER TABLE attempts RENAME CONSTRAINT wait_is_short TO delay_is_short;
ALTER INDEX tries_age RENAME TO attempts_age;
