"""The ledger of the demo: what must be in the database when every order has run its course, and what is there.

It asks the tables of the application and those of the runtime, all in one statement, so that the numbers are of one
instant although the clock of the shop keeps ticking.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chimpbase import Ctx

ACCOUNTS = """
with done as (
  select queue.name as queue, count(*) as jobs
  from chimpbase.job_done join chimpbase.queue on queue.id = job_done.queue
  where job_done.outcome = 'completed'
  group by queue.name
),
waiting as (
  select queue from chimpbase.job union all select queue from chimpbase.job_later
)
select
  (select count(*) from orders)                                                   as orders,
  (select count(distinct ref) from orders)                                        as refs,
  (select count(*) from chimpbase.event where topic = 'order.placed')             as placed,
  (select count(*) from chimpbase.event where topic = 'order.paid')               as paid,
  (select sum(jobs) from done where queue = 'subscription:audit_order')::int      as audits_delivered,
  (select sum(jobs) from done where queue = 'subscription:reserve_stock')::int    as reserves_delivered,
  (select sum(jobs) from done where queue = 'subscription:request_shipment')::int as requests_delivered,
  (select count(*) from audit)                                                    as audits,
  (select count(distinct order_id) from audit)                                    as audited,
  (select sum(reserved) from stock)::int                                          as reserved,
  (select count(*) from chimpbase.run where state = 'completed')                  as runs,
  (select count(*) from chimpbase.step where key like 'charge%' and kind = 'step') as charge_steps,
  (select count(*) from charge)                                                   as charges,
  (select count(distinct order_id) from charge)                                   as charged,
  (select sum(jobs) from done where queue = 'order.ship')::int                    as shipments,
  (select count(*) from orders where shipped_at is not null)                      as shipped,
  (select count(*) from chimpbase.occurrence where schedule = 'snapshot_orders')  as occurrences,
  (select sum(jobs) from done where queue = 'cron:snapshot_orders')::int          as occurrences_done,
  (select count(*) from snapshot)                                                 as snapshots,
  (select count(distinct due_at) from snapshot)                                   as instants,
  (select count(*) from waiting)                                                  as waiting,
  (select count(*) from chimpbase.job_dead)                                       as dead,
  (select count(*) from chimpbase.job_done where crashes > 0)                     as rescued
"""


@dataclass(frozen=True)
class Line:
    """One line of the table: the two numbers must be the same."""

    what: str
    expected: int
    found: int

    @property
    def balances(self) -> bool:
        return self.expected == self.found


@dataclass(frozen=True)
class Expected:
    """What the buyers were promised: orders answered with 201, and the pieces in them."""

    orders: int
    pieces: int


@dataclass(frozen=True)
class Account:
    """All lines, and how many jobs outlived the process that had begun them."""

    lines: list[Line]
    rescued: int

    @property
    def balances(self) -> bool:
        return all(line.balances for line in self.lines)


async def account(ctx: Ctx, expected: Expected) -> Account:
    """The whole account, as it is now."""
    row = await ctx.db.fetch_one(ACCOUNTS)
    found = {name: int(value or 0) for name, value in (row or {}).items()}
    return Account(lines=list(_lines(expected, found)), rescued=found["rescued"])


def _lines(expected: Expected, found: dict[str, int]) -> Iterator[Line]:
    orders = expected.orders
    yield Line("orders promised to the client, rows in the table", orders, found["orders"])
    yield Line("  different ones among them", orders, found["refs"])
    yield Line("order.placed events", orders, found["placed"])
    yield Line("  delivered to audit_order", orders, found["audits_delivered"])
    yield Line("  delivered to reserve_stock", orders, found["reserves_delivered"])
    yield Line("audit rows", orders, found["audits"])
    yield Line("  different orders in them", orders, found["audited"])
    yield Line("pieces ordered, pieces reserved", expected.pieces, found["reserved"])
    yield Line("checkout runs completed", orders, found["runs"])
    yield Line("charge steps in their journals", orders, found["charge_steps"])
    yield Line("charges", orders, found["charges"])
    yield Line("  different orders in them", orders, found["charged"])
    yield Line("order.paid events", orders, found["paid"])
    yield Line("  delivered to request_shipment", orders, found["requests_delivered"])
    yield Line("order.ship jobs done", orders, found["shipments"])
    yield Line("orders shipped", orders, found["shipped"])
    yield Line("cron instants fired, jobs of them done", found["occurrences"], found["occurrences_done"])
    yield Line("  snapshots taken", found["occurrences"], found["snapshots"])
    yield Line("  different instants in them", found["occurrences"], found["instants"])
    yield Line("jobs still waiting", 0, found["waiting"])
    yield Line("dead letters", 0, found["dead"])
