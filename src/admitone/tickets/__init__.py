"""tickets: what sellers offer; it owns the price and the lock of each ticket."""
