-- What the running replicas of this service subscribe to, and when each subject was last wanted. Replicas of two releases
-- share one consumer on the bus: it delivers what any of them subscribes to.
CREATE TABLE subscription (
    subject   text        PRIMARY KEY,
    wanted_at timestamptz NOT NULL DEFAULT instant()
);
