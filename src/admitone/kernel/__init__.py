"""The framework of every service: HTTP, events, the database. It depends on no service."""
