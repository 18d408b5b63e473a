"""web: pages for people, and live updates of them."""

from typing import Final

from admitone.kernel.service import Service
from admitone.policy import MarketplacePolicy
from admitone.web.live import end_streams, follow_bus
from admitone.web.pages import pages
from admitone.web.resources import WebSettings, open_resources

SERVICE: Final = Service(
    name="web",
    pages=pages,
    jobs=(follow_bus, end_streams),
    settings=(MarketplacePolicy, WebSettings),
    lifespan=open_resources,
    has_database=False,
    calls=("auth", "tickets", "orders", "payments"),
)
