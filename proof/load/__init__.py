"""Measures the marketplace beside the limit of the machine it runs on, and what it bears."""
