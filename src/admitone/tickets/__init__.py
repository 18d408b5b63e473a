"""tickets: what sellers offer; it owns a ticket's price and its lock."""
