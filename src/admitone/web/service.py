"""web: pages for people, and their live updates.

- `pages`: every route, and the pages for errors
- `listings`, `buying`, `selling`, `account`: the pages, one function per route
- `page_request`: what such a function gets, and the responses it returns
- `api_client`: the other services' API
- `forms`, `formatting`, `render`: parsing what is typed, wording what is shown, and the templates
- `assets`, `compression`: the static files, and compressed responses
- `hub`, `live`: events from the bus, fanned out to the open pages
"""

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
