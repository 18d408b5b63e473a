"""Money, through Stripe: held when a buyer pays, taken when the ticket is theirs, given back in every other case."""
