"""The alarm clock: reminds orders of deadlines that have passed."""
