"""tickets, on one screen: what it serves, hears and tells."""

from typing import Final

from admitone import events
from admitone.kernel.inbox import Together
from admitone.kernel.service import Service
from admitone.tickets import api, handlers

SERVICE: Final = Service(
    name="tickets",
    # "mine" stands before "{id}", which would take it for an id.
    operations=(api.list_tickets, api.list_own_tickets, api.show_ticket, api.list_ticket, api.edit_ticket),
    hears={
        events.OrderCreated: Together(handlers.usual_orders_created, handlers.order_created),
        events.OrderCancelled: handlers.order_cancelled,
        events.OrderCompleted: Together(handlers.usual_orders_completed, handlers.order_completed),
    },
    opens=api.looking,
    tells=(events.TicketCreated, events.TicketUpdated, events.TicketLockRefused),
)
