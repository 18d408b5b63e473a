"""A local payment provider: the part of Stripe's API that a marketplace uses, for the unmodified Stripe SDK.

No card data is accepted and no money moves; a card's behaviour depends on the test token it is named by.
"""
