-- People who signed up.
CREATE TABLE account (
    id            uuid        PRIMARY KEY,
    -- Kept in lower case, so that this index is the last word on "one e-mail, one account", races included.
    email         text        NOT NULL CONSTRAINT one_account_per_email UNIQUE,
    password_hash text        NOT NULL,
    -- Grows by one with every change that others hear of.
    version       integer     NOT NULL DEFAULT 0,
    -- The Idempotency-Key it was made with: a sign-up whose answer was lost is answered again, not refused.
    sign_up_key   text        CONSTRAINT one_account_per_key UNIQUE,
    signed_up_at  timestamptz NOT NULL DEFAULT instant(),
    -- "C", because what counts as lower case otherwise depends on the server's locale.
    CONSTRAINT email_is_lower_case CHECK (email = lower(email COLLATE "C")),
    -- Octets, as RFC 5321 counts them; a longer one would also make tokens that no service reads.
    CONSTRAINT email_is_short CHECK (octet_length(email) <= 254),
    -- Nothing but an argon2id hash is ever stored, whatever mistake the code makes.
    CONSTRAINT password_is_hashed CHECK (password_hash LIKE '$argon2id$%'),
    CONSTRAINT version_counts_up CHECK (version >= 0)
);
