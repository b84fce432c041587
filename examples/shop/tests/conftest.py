"""The shop, rehearsed: a fresh database for each test, HTTP on a free port, and no step that the test does not take."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest
from app import app

from chimpbase.testing import Rehearsal, rehearse

SHOP = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def shop() -> AsyncGenerator[Rehearsal]:
    async with rehearse(app, project=SHOP, http=True, port=0) as shop:
        yield shop


@pytest.fixture
async def client(shop: Rehearsal) -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=shop.address or "", trust_env=False) as client:
        yield client
