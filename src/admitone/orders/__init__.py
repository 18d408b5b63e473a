"""orders: who holds or owns a ticket, and the only service that decides it."""
