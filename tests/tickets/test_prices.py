"""A price is the same number wherever it passes: read from JSON, kept in minor units, shown again."""

import msgspec

from admitone.kernel.http.parsing import read_body
from admitone.kernel.money import cents_of, decimal_of
from admitone.tickets.model import TicketListing


def test_s11_every_price_from_050_to_10000_is_read_and_shown_exactly() -> None:
    encoder = msgspec.json.Encoder(decimal_format="number")
    for cents in range(50, 10_001):
        written = f"{cents // 100}.{cents % 100:02d}"
        listing = read_body(f'{{"title":"Seat","price":{written}}}'.encode(), TicketListing)
        assert cents_of(listing.price) == cents
        assert encoder.encode(decimal_of(cents)).decode() == written
