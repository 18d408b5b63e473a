"""Events: the transactional outbox, the bus, the inbox, and replicas of other services' state."""
