"""The shop, running for the whole file: its own PostgreSQL in a directory that pytest made, HTTP on a free port."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from app import app

from chimpbase import Runtime

SHOP = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Runtime]:
    data = tmp_path_factory.mktemp("shop") / "pg"
    with pytest.MonkeyPatch.context() as patch:
        for variable in (
            "DATABASE_URL",
            "CHIMPBASE_DATABASE_URL",
            "PGHOST",
            "PGPORT",
            "PGDATABASE",
            "PGUSER",
            "PGSERVICE",
        ):
            patch.delenv(variable, raising=False)
        patch.setattr("checkout.COOLING_OFF", timedelta(0))
        async with app.running(project=SHOP, data_directory=str(data), http=True, port=0) as runtime:
            yield runtime


@pytest.fixture(scope="module")
async def client(shop: Runtime) -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=shop.address or "", trust_env=False) as client:
        yield client
