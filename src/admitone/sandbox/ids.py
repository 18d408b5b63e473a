"""Names for the sandbox's objects, in the form of Stripe's: `pi_` and 24 characters."""

import secrets


def new_id(prefix: str) -> str:
    """Return an unpredictable id; without a prefix, only its unpredictable part."""
    token = secrets.token_hex(12)
    return f"{prefix}_{token}" if prefix else token
