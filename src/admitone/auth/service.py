"""auth: people and their sessions."""

from typing import Final

from admitone.auth import api
from admitone.auth.forgetting import forget_old
from admitone.auth.own import own
from admitone.events import SessionRevoked, UserCreated, UserUpdated
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
    tells=(UserCreated, UserUpdated, SessionRevoked),
    jobs=(forget_old,),
    opens=own,
)
