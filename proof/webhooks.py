"""Webhooks signed as Stripe signs them."""

import hashlib
import hmac


def stripe_signature(body: bytes, secret: str, at_seconds: int) -> str:
    """Return the header. Source: Stripe documentation, "Verify webhook signatures manually"."""
    signature = hmac.new(secret.encode(), b"%d.%b" % (at_seconds, body), hashlib.sha256).hexdigest()
    return f"t={at_seconds},v1={signature}"
