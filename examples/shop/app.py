"""The shop: `chimpbase dev app.py`, and it takes orders on http://127.0.0.1:8000."""

from __future__ import annotations

import checkout
import fulfilment
import orders

from chimpbase import App
from chimpbase.http import route

routes = [
    route.post("/orders", checkout.place_order, status=201),
    route.get("/orders", orders.list_orders),
    route.get("/orders/{order_id}", orders.get_order),
    route.post("/orders/{order_id}/payment", checkout.confirm_payment, status=202),
    route.post("/orders/{order_id}/cancel", orders.cancel_order),
    route.post("/orders/{order_id}/complete", orders.complete_order),
]

app = App("shop", register=[orders.blueprint, checkout.blueprint, fulfilment.blueprint, routes])
