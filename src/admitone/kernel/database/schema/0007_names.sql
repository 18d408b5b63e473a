-- The tables carry the terms of the documentation.
ALTER TABLE answer RENAME TO idempotent_response;
ALTER TABLE idempotent_response RENAME COLUMN person TO user_id;
ALTER TABLE idempotent_response RENAME COLUMN given_at TO created_at;
ALTER INDEX answer_age RENAME TO idempotent_response_age;

ALTER TABLE followed RENAME TO aggregate_version;

ALTER TABLE revoked_session RENAME COLUMN noticed TO number;
ALTER INDEX revoked_session_noticed RENAME TO revoked_session_number;
