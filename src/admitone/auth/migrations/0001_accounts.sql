-- One row per user.
CREATE TABLE account (
    id            uuid        PRIMARY KEY,
    -- Stored in lower case, so that this index decides "one e-mail, one account", also between concurrent sign-ups.
    email         text        NOT NULL CONSTRAINT one_account_per_email UNIQUE,
    password_hash text        NOT NULL,
    -- Incremented with every published change.
    version       integer     NOT NULL DEFAULT 0,
    -- The Idempotency-Key of the sign-up: repeating it after a lost response signs in instead of being refused.
    sign_up_key   text        CONSTRAINT one_account_per_key UNIQUE,
    signed_up_at  timestamptz NOT NULL DEFAULT instant(),
    -- "C", since lower case otherwise depends on the server's locale.
    CONSTRAINT email_is_lower_case CHECK (email = lower(email COLLATE "C")),
    -- In octets, as in RFC 5321; with a longer one, tokens would exceed the length that services accept.
    CONSTRAINT email_is_short CHECK (octet_length(email) <= 254),
    -- Only an argon2id hash can be stored, whatever mistake the code makes.
    CONSTRAINT password_is_hashed CHECK (password_hash LIKE '$argon2id$%'),
    CONSTRAINT version_counts_up CHECK (version >= 0)
);

-- One row per sign-in. Tokens are verified without reading it; it exists so that a session can be ended.
CREATE TABLE session (
    id         uuid        PRIMARY KEY,
    account_id uuid        NOT NULL REFERENCES account ON DELETE CASCADE,
    -- The network it was started from: attempts from elsewhere do not delay the owner there.
    place      cidr        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT instant(),
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz,
    CONSTRAINT expires_after_start CHECK (expires_at > started_at)
);
CREATE INDEX session_of_account ON session (account_id, place);
CREATE INDEX session_age ON session (expires_at);

-- Counters of recent failed attempts, per account and per client network.
CREATE TABLE tries (
    -- A digest, because users may type a password into the e-mail field.
    about      bytea       PRIMARY KEY,
    count      integer     NOT NULL DEFAULT 0,
    last_at    timestamptz NOT NULL DEFAULT instant(),
    wait_until timestamptz NOT NULL DEFAULT instant(),
    CONSTRAINT count_is_no_debt CHECK (count >= 0),
    -- Never a lock-out: a stranger's attempts delay the owner by a minute at most.
    CONSTRAINT wait_is_short CHECK (wait_until <= last_at + interval '60 seconds')
);
CREATE INDEX tries_age ON tries (last_at);
