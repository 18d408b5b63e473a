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

-- Where a person is signed in. A token is good without this row being read; the row is what can be ended.
CREATE TABLE session (
    id         uuid        PRIMARY KEY,
    account_id uuid        NOT NULL REFERENCES account ON DELETE CASCADE,
    -- The network it was started from: whoever guesses from elsewhere cannot slow its owner down there.
    place      cidr        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT instant(),
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz,
    CONSTRAINT expires_after_start CHECK (expires_at > started_at)
);
CREATE INDEX session_of_account ON session (account_id, place);
CREATE INDEX session_age ON session (expires_at);

-- How often something was tried lately without success: an account, or anything at all from one network.
CREATE TABLE tries (
    -- A digest, because people type passwords where an e-mail belongs.
    about      bytea       PRIMARY KEY,
    count      integer     NOT NULL DEFAULT 0,
    last_at    timestamptz NOT NULL DEFAULT instant(),
    wait_until timestamptz NOT NULL DEFAULT instant(),
    CONSTRAINT count_is_no_debt CHECK (count >= 0),
    -- Never a lock-out: a stranger's guesses keep nobody out for longer than a minute.
    CONSTRAINT wait_is_short CHECK (wait_until <= last_at + interval '60 seconds')
);
CREATE INDEX tries_age ON tries (last_at);
