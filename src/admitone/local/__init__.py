"""Running on one machine: PostgreSQL and NATS from their wheels, as child processes on one data folder."""
