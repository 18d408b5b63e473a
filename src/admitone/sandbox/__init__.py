"""A payment provider for one machine: the part of Stripe's API that AdmitOne uses, spoken to Stripe's own SDK.

No card data comes here and no money moves. What a card does is decided by the test token it is named with.
"""
