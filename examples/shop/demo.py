"""The demo: 1,000 orders over HTTP, a kill -9 half way, and then every one of them accounted for.

This process is the client. The shop is another one, started as in production, on a database that holds nothing else.

    order ──► SIGKILL ──► start again ──► order the rest ──► pay ──► wait until all is done ──► count

Exit code 0 when every line of the table balances, else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from stage.buyers import Buyers, GaveUp
from stage.ledger import Account, Expected, account
from stage.premises import SHOP, ShopProcess, Trouble, fresh_database, scratch_directory

from chimpbase import App, errors

SETTLE_S = 60.0
LOOK_S = 0.1


class Demo:
    """One run: the story on the console, and whether the books balance."""

    def __init__(self, console: Console, *, orders: int) -> None:
        self._console, self._orders = console, orders
        self._began = time.monotonic()

    async def run(self) -> bool:
        """Whether nothing was lost and nothing doubled."""
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(scratch_directory())
            database = await stack.enter_async_context(fresh_database(directory))
            shop = ShopProcess(database, log=directory / "shop.log")
            stack.push_async_callback(shop.stop)
            self._say(f"starting the shop on {database.title}")
            self._say(f"it is ready after {await shop.start():.1f} s at {shop.url} (process {shop.pid})")
            try:
                expected = await self._trade(shop)
            except GaveUp as error:
                raise Trouble(f"{error}. The last words of the shop:\n{shop.last_words()}") from error
            final = await self._settle(database.settings, expected)
            self._console.print(_table(final))
            self._console.print(self._verdict(final))
            if final.balances and self._console.is_terminal:
                await self._keep_open(shop)
        return final.balances

    async def _trade(self, shop: ShopProcess) -> Expected:
        """Everything that the buyers do; what they were promised."""
        with _bars(self._console) as bars:
            orders = bars.add_task("orders", total=self._orders)
            payments = bars.add_task("payments", total=self._orders)
            async with Buyers(
                shop.url, on_order=lambda: bars.advance(orders), on_payment=lambda: bars.advance(payments)
            ) as buyers:
                await self._order_through_a_kill(shop, buyers)
                await buyers.pay()
                self._say("all are paid; waiting until every delivery, job and workflow is done")
                return Expected(orders=len(buyers.ids), pieces=buyers.pieces)

    async def _order_through_a_kill(self, shop: ShopProcess, buyers: Buyers) -> None:
        self._say(f"sending {self._orders:,} orders over HTTP")
        ordering = asyncio.create_task(buyers.order(self._orders))
        try:
            await _first(buyers.reached(self._orders // 2), ordering)
            self._say(f"{len(buyers.ids):,} orders are taken: [bold red]kill -9 {shop.pid}[/]")
            await shop.kill()
            self._say(f"started again, and ready after {await shop.start():.1f} s (process {shop.pid})")
            await ordering
            self._say(f"all {len(buyers.ids):,} are taken; {buyers.repeated} requests had to be sent again")
        finally:
            ordering.cancel()

    async def _settle(self, settings: Mapping[str, Any], expected: Expected) -> Account:
        """The account, as soon as it balances, or as it is when the time is up."""
        books = App("books")
        async with books.running(project=SHOP, workers=False, **settings):
            deadline = time.monotonic() + SETTLE_S
            while True:
                async with books.transaction() as ctx:
                    found = await account(ctx, expected)
                if found.balances or time.monotonic() > deadline:
                    return found
                await asyncio.sleep(LOOK_S)

    async def _keep_open(self, shop: ShopProcess) -> None:
        self._console.print(f"\nThe shop stays open at [bold]{shop.url}[/] until Ctrl-C. Try:\n")
        for command in (
            f'curl -s {shop.url}/orders --json \'{{"sku": "earl grey", "qty": 2}}\'',
            f"curl -s '{shop.url}/orders?status=shipped&limit=2'",
            f"curl -s -X POST {shop.url}/orders/1/cancel",
        ):
            self._console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
        with suppress(asyncio.CancelledError):  # Ctrl-C
            await asyncio.Event().wait()
        self._console.print("\nclosing")

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:5.1f} s[/]  {text}", highlight=False)

    def _verdict(self, final: Account) -> str:
        took = f"{time.monotonic() - self._began:.1f} s"
        if not final.balances:
            return f"[bold red]The books do not balance[/] after {took}."
        return (
            f"[bold green]None lost, none doubled[/], in {took}. {final.rescued} jobs were in the hands of the killed "
            "process and were done by the next."
        )


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description="Orders, a kill -9, and every order accounted for.")
    parser.add_argument("--orders", type=int, default=1000, metavar="N", help="how many (default: 1000)")
    orders = max(2, parser.parse_args().orders)
    console = Console()
    try:
        return 0 if asyncio.run(_until_stopped(Demo(console, orders=orders))) else 1
    except asyncio.CancelledError:
        return 130
    except (Trouble, errors.ChimpbaseError) as error:
        console.print(f"The demo stopped: {error}", markup=False, highlight=False)
        return 1


async def _until_stopped(demo: Demo) -> bool:
    """Run it so that a signal still lets it stop the shop and remove what it made."""
    task = asyncio.ensure_future(demo.run())
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(sign, task.cancel)
    return await task


async def _first(event: Awaitable[object], work: asyncio.Task[None]) -> None:
    """Wait for the event; if the work fails before it, let that error out."""
    waiting = asyncio.ensure_future(event)
    await asyncio.wait({waiting, work}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        await work


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _table(final: Account) -> Table:
    table = Table(title="Every order, accounted for", title_justify="left")
    table.add_column("")
    table.add_column("expected", justify="right")
    table.add_column("found", justify="right")
    table.add_column("")
    for line in final.lines:
        sign = "[green]ok[/]" if line.balances else "[bold red]off[/]"
        table.add_row(line.what, f"{line.expected:,}", f"{line.found:,}", sign)
    return table


if __name__ == "__main__":
    sys.exit(main())
