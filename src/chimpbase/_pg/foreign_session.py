"""Foreign sessions: what is to follow the commit of an SQLAlchemy session, by the session's own events.

The events tell of savepoints, too. What was asked for inside one is dropped when that one is rolled back, and what is
left is called after the outermost commit. Invariant: at the end of a transaction nothing is left over for the next.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

_KEY = "chimpbase.following"


class Following:
    """The callbacks of one session. It listens for as long as the session lives."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._waiting: list[tuple[tuple[Any, ...], Callable[[], None]]] = []
        self._released: set[Any] = set()
        # a session exists, so the library has been imported, and not by us
        listen = sys.modules["sqlalchemy.event"].listen
        listen(session, "after_commit", self._committed)
        listen(session, "after_transaction_end", self._ended)

    def add(self, callback: Callable[[], None]) -> None:
        """Call back once the session has committed."""
        self._waiting.append((tuple(_lineage(self._session.get_nested_transaction())), callback))

    def _committed(self, session: Any) -> None:
        if savepoint := session.get_nested_transaction():
            self._released.add(savepoint)
            return
        waiting, self._waiting = self._waiting, []
        for _, callback in waiting:
            callback()

    def _ended(self, session: Any, transaction: Any) -> None:
        if transaction.parent is None:
            self._waiting.clear()
            self._released.clear()
        elif transaction in self._released:
            self._released.discard(transaction)
        else:
            self._waiting = [one for one in self._waiting if transaction not in one[0]]


def following(session: Any) -> Following:
    """The callbacks of this session, kept in its own `info`."""
    if _KEY not in session.info:
        session.info[_KEY] = Following(session)
    return session.info[_KEY]


def _lineage(transaction: Any) -> Iterator[Any]:
    """The savepoint and those around it, innermost first."""
    while transaction is not None and transaction.nested:
        yield transaction
        transaction = transaction.parent
