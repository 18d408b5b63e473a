"""auth: people and their sessions."""

from typing import Final

from admitone.auth import api
from admitone.auth.own import own
from admitone.events import SessionRevoked, UserCreated, UserUpdated
from admitone.kernel.service import Service

SERVICE: Final = Service(
    name="auth",
    operations=(api.public_keys,),
    tells=(UserCreated, UserUpdated, SessionRevoked),
    opens=own,
)
