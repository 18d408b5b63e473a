"""auth: accounts and sessions."""

from typing import Final

from admitone.auth import api, handlers, jobs, store
from admitone.auth.resources import AuthSettings, open_resources
from admitone.events import SessionRevoked, UserCreated, UserUpdated
from admitone.kernel.http.sessions import SessionAuthority, session_revoked
from admitone.kernel.messaging.snapshots import Snapshots
from admitone.kernel.service import Service

SERVICE: Final = Service(
    name="auth",
    operations=(
        api.sign_up,
        api.sign_in,
        api.sign_out,
        api.sign_out_everywhere,
        api.current_user,
        api.change_account,
        api.public_keys,
    ),
    subscriptions={SessionRevoked: session_revoked},
    publications=(UserCreated, UserUpdated, SessionRevoked),
    snapshots=(
        Snapshots(store.account_ids_after, handlers.account_snapshots),
        Snapshots(store.ended_session_ids_after, handlers.session_snapshots),
    ),
    rebuilds={
        UserCreated: handlers.rebuild_account,
        UserUpdated: handlers.rebuild_account,
        SessionRevoked: handlers.rebuild_ended_session,
    },
    jobs=(jobs.delete_expired,),
    settings=(AuthSettings,),
    lifespan=open_resources,
)

# Every service verifies session tokens with the keys published there.
AUTHORITY: Final = SessionAuthority("auth", api.public_keys.path)
