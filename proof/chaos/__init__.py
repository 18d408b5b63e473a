"""Chaos: the real marketplace as real processes, under load, while everything it stands on is broken."""
