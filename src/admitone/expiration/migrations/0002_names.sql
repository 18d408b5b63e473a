-- A deadline is signalled.
ALTER TABLE deadline RENAME COLUMN next_ring_at TO next_signal_at;
ALTER TABLE deadline RENAME COLUMN rings TO signals;
