"""Pages for people: everything is asked of the other services by their HTTP API, and follows the bus live."""
