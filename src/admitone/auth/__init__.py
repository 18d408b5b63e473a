"""auth: accounts, sessions and session tokens."""
