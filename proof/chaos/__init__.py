"""Chaos: the real marketplace as real processes, under load, while all it stands on is broken again and again."""
