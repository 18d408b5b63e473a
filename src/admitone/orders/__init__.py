"""Who holds or owns a ticket: the only decider of that."""
