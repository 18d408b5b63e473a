"""The simulator: the real marketplace in a simulated world whose every accident is drawn from a seed."""
