"""The page on which a buyer approves a payment, in place of the 3D Secure page of the buyer's bank."""

from decimal import Decimal
from secrets import token_urlsafe
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from jinja2 import Environment, PackageLoader
from starlette.responses import HTMLResponse, Response

from stripe_sandbox.errors import Json

_PAGE: Final = Environment(loader=PackageLoader("stripe_sandbox", "."), autoescape=True).get_template("page.html")


def authentication(intent: Json) -> Response:
    """Return the page that offers to approve or refuse the payment."""
    amount = f"{Decimal(intent['amount']).scaleb(-2)} {intent['currency'].upper()}"
    return _response(title="Confirm your payment", amount=amount, client_secret=intent["client_secret"])


def message(text: str, status: int = 200) -> Response:
    return _response(status, title="Payment", message=text)


def _response(status: int = 200, **values: str) -> Response:
    nonce = token_urlsafe(16)
    # No `form-action`: it would also forbid the redirect to the marketplace that follows the form.
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; frame-ancestors 'none'"
    return HTMLResponse(_PAGE.render(values, nonce=nonce), status, {"content-security-policy": policy})


def return_address(return_url: str, intent: Json, *, is_approved: bool) -> str:
    """Return the buyer's return URL with the parameters that Stripe adds to it."""
    parts = urlsplit(return_url)
    added = f"payment_intent={intent['id']}&payment_intent_client_secret={intent['client_secret']}"
    added += f"&redirect_status={'succeeded' if is_approved else 'failed'}"
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))
