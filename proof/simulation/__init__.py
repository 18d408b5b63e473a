"""The simulator: the real marketplace in a made-up world whose every accident is drawn from a seed."""
