"""The page where a buyer approves a payment, standing in for the page of the buyer's bank."""

import base64
import hashlib
from html import escape
from typing import Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from admitone.kernel.money import decimal_of
from admitone.sandbox.problems import Json

_STYLE: Final = """
:root { color-scheme: light dark; font: 1.0625rem/1.5 system-ui, sans-serif; }
body { max-width: 26rem; margin: 12vh auto; padding: 0 1.25rem; }
p.amount { font-size: 2rem; font-weight: 650; margin: 0.5rem 0 1.5rem; }
form { display: flex; gap: 0.75rem; }
button { font: inherit; padding: 0.6rem 1.2rem; border: 1px solid currentColor; border-radius: 0.5rem; }
small { display: block; margin-top: 2rem; opacity: 0.75; }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# No `form-action`: it would also forbid the redirect back to the marketplace that answers the form.
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'"
)


def _page(title: str, content: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{content}</main></body></html>"
    )


def authenticate(intent: Json) -> str:
    """Return the page that asks whether the buyer approves the payment."""
    amount = f"{decimal_of(intent['amount'])} {intent['currency'].upper()}"
    secret = escape(intent["client_secret"], quote=True)
    return _page(
        "Confirm your payment",
        f'<p class="amount">{escape(amount)}</p><form method="post">'
        f'<input type="hidden" name="client_secret" value="{secret}">'
        '<button name="outcome" value="approve">Approve</button>'
        '<button name="outcome" value="fail">Refuse</button></form>'
        "<small>This page stands in for your bank's. No money moves.</small>",
    )


def finished(message: str) -> str:
    """Return the page for a payment that has nowhere to go back to, or nothing left to decide."""
    return _page("Payment", f"<p>{escape(message)}</p>")


def way_back(return_url: str, intent: Json, *, is_approved: bool) -> str:
    """Return the address the buyer goes back to, with the parameters that Stripe adds to it."""
    parts = urlsplit(return_url)
    added = urlencode(
        {
            "payment_intent": intent["id"],
            "payment_intent_client_secret": intent["client_secret"],
            "redirect_status": "succeeded" if is_approved else "failed",
        }
    )
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))
