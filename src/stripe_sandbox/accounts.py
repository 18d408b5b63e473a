"""The account that the secret key belongs to."""

from stripe.params import AccountRetrieveCurrentParams

from stripe_sandbox.errors import Json
from stripe_sandbox.operations import Context, operation
from stripe_sandbox.parameters import ListParams, Params


@operation("GET", "/v1/account", AccountRetrieveCurrentParams)
def retrieve_account(context: Context, _params: Params) -> Json:
    found, _ = context.store.page("account", ListParams(limit=1), {})
    if found:
        return found[0]
    account = context.new("account", "acct")
    context.store.save(account)
    return account
