"""The shop from its two doors: actions, as another part of the program calls them, and HTTP, as a customer does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx2
import pytest
from app import app
from checkout import COOLING_OFF, PATIENCE, NewOrder, OrderPlaced, confirm_payment, order_placed, place_order, run_of
from fulfilment import shipments
from orders import IllegalTransition, cancel_order, complete_order, get_order

from chimpbase.testing import Rehearsal

pytestmark = pytest.mark.anyio


async def test_an_order_is_placed_over_http(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/orders", json={"sku": "assam", "qty": 2})
    assert answer.status_code == 201
    order = answer.json()
    assert (order["sku"], order["qty"], order["status"]) == ("assam", 2, "pending")
    assert (await client.get(f"/orders/{order['id']}")).json() == order
    assert (await client.get("/orders", params={"status": "pending"})).json() == [order]


async def test_an_order_sent_twice_is_one_order(client: httpx2.AsyncClient) -> None:
    first, second = [await client.post("/orders", json={"sku": "oolong", "ref": "twice"}) for _ in range(2)]
    assert first.json() == second.json()
    assert await value("select count(*) from orders") == 1


async def test_a_ref_belongs_to_the_order_it_came_with(client: httpx2.AsyncClient) -> None:
    await client.post("/orders", json={"sku": "oolong", "ref": "mine"})
    answer = await client.post("/orders", json={"sku": "sencha", "ref": "mine"})
    assert answer.status_code == 409
    assert "'mine'" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "path"),
    [({"sku": "assam", "qty": 0}, "$.qty"), ({"sku": "assam", "qty": "two"}, "$.qty"), ({"qty": 2}, "$")],
)
async def test_a_wrong_order_is_refused_with_its_place(
    client: httpx2.AsyncClient, body: dict[str, Any], path: str
) -> None:
    answer = await client.post("/orders", json=body)
    assert (answer.status_code, answer.json()["error"]["path"]) == (422, path)


async def test_an_unknown_order_is_not_found(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/orders/999999")).status_code == 404
    assert (await client.post("/orders/999999/payment")).status_code == 404


async def test_a_paid_order_is_shipped(shop: Rehearsal, client: httpx2.AsyncClient) -> None:
    order = (await client.post("/orders", json={"sku": "keemun"})).json()
    assert (await client.post(f"/orders/{order['id']}/payment", json={"ok": True})).status_code == 202
    await shop.advance(COOLING_OFF)
    assert await shop.result(run_of(order["id"])) == "paid"
    assert await shop.enqueued(shipments) == []
    shipped = await shop.call(get_order, order["id"])
    assert (shipped.status, shipped.shipped_at is not None) == ("shipped", True)
    assert (await shop.call(complete_order, order["id"])).status == "completed"


async def test_a_declined_payment_cancels_the_order(shop: Rehearsal) -> None:
    order = await shop.call(place_order, NewOrder("lapsang"))
    await shop.call(confirm_payment, order.id, ok=False)
    await shop.advance(COOLING_OFF)
    assert await shop.result(run_of(order.id)) == "cancelled"
    assert (await shop.call(get_order, order.id)).status == "cancelled"


async def test_an_order_that_nobody_pays_is_cancelled_after_three_days(shop: Rehearsal) -> None:
    order = await shop.call(place_order, NewOrder("lapsang"))
    await shop.advance(COOLING_OFF + PATIENCE - timedelta(minutes=1), every_occurrence=False)
    assert (await shop.run(run_of(order.id))).waits == ("payment",)
    await shop.advance(timedelta(minutes=1), every_occurrence=False)
    assert await shop.result(run_of(order.id)) == "cancelled"


async def test_money_for_a_cancelled_order_does_not_revive_it(shop: Rehearsal) -> None:
    order = await shop.call(place_order, NewOrder("lapsang"))
    await shop.call(cancel_order, order.id)
    await shop.call(confirm_payment, order.id)
    await shop.advance(COOLING_OFF)
    assert await shop.result(run_of(order.id)) == "cancelled"


async def test_a_step_out_of_line_is_refused_and_changes_nothing(shop: Rehearsal, client: httpx2.AsyncClient) -> None:
    order = await shop.call(place_order, NewOrder("assam"))
    with pytest.raises(IllegalTransition, match="pending; only a shipped order becomes completed"):
        await shop.call(complete_order, order.id)
    answer = await client.post(f"/orders/{order.id}/complete")
    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "IllegalTransition")
    assert await shop.call(get_order, order.id) == order


async def test_both_subscribers_hear_of_an_order(shop: Rehearsal) -> None:
    order = await shop.call(place_order, NewOrder("rooibos", 7))
    assert await shop.published(order_placed) == [OrderPlaced(order.id, "rooibos", 7)]
    await shop.drain(raising=True)
    assert await value("select count(*) from audit where order_id = $1", order.id) == 1
    assert await value("select reserved from stock where sku = 'rooibos'") == 7


async def test_an_order_that_is_not_committed_leaves_nothing(shop: Rehearsal) -> None:
    async def change_of_mind() -> None:
        async with shop.transaction() as ctx:
            await place_order(ctx, NewOrder("genmaicha", ref="never mind"))
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        await change_of_mind()
    assert await shop.published(order_placed) == []
    assert await value("select count(*) from chimpbase.run") == 0
    assert await value("select count(*) from orders") == 0


async def test_an_order_is_charged_once_however_often_its_checkout_starts_again(shop: Rehearsal) -> None:
    order = await shop.call(place_order, NewOrder("gunpowder"))
    await shop.call(confirm_payment, order.id)
    await shop.advance(COOLING_OFF)
    await shop.crash_and_replay(run_of(order.id))
    assert await value("select count(*) from charge where order_id = $1", order.id) == 1


async def test_the_statuses_are_counted_every_second(shop: Rehearsal) -> None:
    await shop.advance(timedelta(seconds=5))
    assert await value("select count(*) from snapshot") >= 5
    assert await value("select count(*) = count(distinct due_at) from snapshot")


async def value(sql: str, *args: object) -> Any:
    async with app.transaction() as ctx:
        return await ctx.db.fetch_value(sql, *args)
