"""The tickets service: its routes, subscriptions and publications."""

from typing import Final

from admitone import events
from admitone.kernel.http.sessions import session_revoked
from admitone.kernel.messaging.handlers import BatchHandler
from admitone.kernel.messaging.snapshots import Snapshots
from admitone.kernel.service import Service
from admitone.policy import MarketplacePolicy
from admitone.tickets import api, handlers, store
from admitone.tickets.resources import open_resources

SERVICE: Final = Service(
    name="tickets",
    # "mine" comes before "{id}", which would match it.
    operations=(api.list_tickets, api.list_own_tickets, api.show_ticket, api.list_ticket, api.edit_ticket),
    subscriptions={
        events.SessionRevoked: session_revoked,
        events.OrderCreated: BatchHandler(handlers.load_ordered, handlers.order_created, handlers.save),
        events.OrderCancelled: BatchHandler(handlers.load_ended, handlers.order_cancelled, handlers.save),
        events.OrderCompleted: BatchHandler(handlers.load_ended, handlers.order_completed, handlers.save),
    },
    publications=(events.TicketCreated, events.TicketUpdated, events.TicketLockRefused),
    snapshots=(Snapshots(store.ticket_ids_after, handlers.snapshots),),
    rebuilds={
        events.TicketCreated: handlers.rebuild_ticket,
        events.TicketUpdated: handlers.rebuild_ticket,
        events.TicketLockRefused: handlers.rebuild_refusal,
    },
    settings=(MarketplacePolicy,),
    lifespan=open_resources,
)
