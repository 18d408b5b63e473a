"""A timer service: signals to orders that a deadline has passed."""
