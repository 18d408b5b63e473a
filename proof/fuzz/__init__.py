"""Hostile input at length: mutated requests against every route, and coverage-guided runs of each parser."""
