"""The HTTP side of a service: requests and responses, parsing, sessions, OpenAPI, idempotency."""
