"""The buyers of the demo: a crowd behind one HTTP client that does not give up when the shop dies under it.

A request without an answer may have been carried out or not. The crowd simply sends it again: each order has a `ref`
that the shop knows it by, so asking twice is ordering once, and a payment that comes twice finds its order paid.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import httpx2

TEAS = (
    "assam",
    "darjeeling",
    "earl grey",
    "genmaicha",
    "gunpowder",
    "keemun",
    "lapsang",
    "oolong",
    "rooibos",
    "sencha",
)
CROWD = 32
PATIENCE_S = 30.0
PAUSE_S = 0.05

T = TypeVar("T")


class GaveUp(Exception):
    """The shop refused a request, or did not come back in time."""


class Buyers:
    """`on_order` and `on_payment` are called each time one is through."""

    def __init__(self, url: str, *, on_order: Callable[[], None], on_payment: Callable[[], None]) -> None:
        limits = httpx2.Limits(max_connections=CROWD, max_keepalive_connections=CROWD)
        self._client = httpx2.AsyncClient(base_url=url, limits=limits, timeout=10, trust_env=False)
        self._on_order, self._on_payment = on_order, on_payment
        self.ids: set[int] = set()
        self.pieces = 0
        self.repeated = 0
        self._progress = asyncio.Condition()

    async def __aenter__(self) -> Buyers:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def order(self, count: int) -> None:
        """Place `count` orders, and keep what the shop answered."""
        await _crowd(range(count), self._order)

    async def pay(self) -> None:
        """Pay every order that the shop accepted."""
        await _crowd(sorted(self.ids), self._pay)

    async def reached(self, count: int) -> None:
        """Wait until so many orders are placed."""
        async with self._progress:
            await self._progress.wait_for(lambda: len(self.ids) >= count)

    async def _order(self, number: int) -> None:
        qty = 1 + number % 5
        order = {"ref": f"demo-{number}", "sku": TEAS[number % len(TEAS)], "qty": qty}
        answer = await self._insist("/orders", order, accept=(201,))
        self.ids.add(answer.json()["id"])
        self.pieces += qty
        self._on_order()
        async with self._progress:
            self._progress.notify_all()

    async def _pay(self, order_id: int) -> None:
        # 409: the checkout has ended, so an earlier try of this very payment got through
        await self._insist(f"/orders/{order_id}/payment", {"ok": True}, accept=(202, 409))
        self._on_payment()

    async def _insist(self, path: str, body: object, *, accept: tuple[int, ...]) -> httpx2.Response:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = await self._client.post(path, json=body)
            except httpx2.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code in accept:
                    return answer
                trouble = f"{answer.status_code} {answer.text}"
                if answer.status_code < 500:
                    raise GaveUp(f"POST {path} was refused: {trouble}")
            if time.monotonic() > deadline:
                raise GaveUp(f"POST {path} got no answer for {PATIENCE_S:g} s: {trouble}")
            self.repeated += 1
            await asyncio.sleep(PAUSE_S)


async def _crowd(work: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
    """Do all of it, CROWD at a time."""
    todo = iter(work)

    async def one() -> None:
        for item in todo:
            await do(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CROWD):
                group.create_task(one())
    except ExceptionGroup as several:
        raise several.exceptions[0] from None  # they all say the same
