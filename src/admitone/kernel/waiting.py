"""How many requests may wait at once: ids are easily made up, and what has one may never come."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID


class WaitLimit:
    """Bounds how many requests wait at once for the same kind of thing: of each account, and in all."""

    def __init__(self, per_account_max: int, in_all_max: int) -> None:
        self._per_account_max = per_account_max
        self._in_all_max = in_all_max
        self._by_account: Counter[UUID] = Counter()

    @contextmanager
    def of(self, account: UUID) -> Iterator[bool]:
        """Yield whether a request of an account may wait now; if so, it counts as waiting during the block."""
        if self._by_account[account] >= self._per_account_max or self._by_account.total() >= self._in_all_max:
            yield False
            return
        self._by_account[account] += 1
        try:
            yield True
        finally:
            self._by_account[account] -= 1
            self._by_account += Counter()  # drops accounts without any
