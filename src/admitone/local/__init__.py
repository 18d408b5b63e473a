"""The embedded default: PostgreSQL and NATS out of their wheels, as our own child processes in one data folder."""
