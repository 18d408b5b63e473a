"""expiration: a timer service, which signals to orders that a deadline has passed."""
