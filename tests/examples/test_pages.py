"""Pages: what README and docs say beside their Python blocks is so."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from chimpbase import App
from chimpbase._core.settings import documented
from tests.house.checkout import ROOT

PAGES = [ROOT / "README.md", ROOT / "examples" / "shop" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text("utf-8")) if not (page.parent / link).exists()]
    assert broken == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 250


def test_the_settings_page_lists_every_setting_as_it_is() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    rows = [
        tuple(cell.strip() for cell in row.split("|")[1:-1]) for row in re.findall(r"^\| `.*\|$", page, re.MULTILINE)
    ]
    found = [(name, env.split(" or ")[0], default, doc) for name, env, default, doc in rows]
    assert found == [
        (f"`{one.name}`", f"`{one.env}`", f"`{one.default}`" if one.default else "", one.doc) for one in documented()
    ]


@pytest.mark.anyio
async def test_the_queries_for_operators_run(dsn: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    queries = [
        query
        for block in re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
        for query in block.split(";")
        if query.strip()
    ]
    pause = re.search(r"`(update chimpbase\.queue .*?)`", page, re.DOTALL)
    assert len(queries) == 3
    assert pause is not None
    async with App("look").running(database_url=dsn, project=tmp_path, workers=False):
        connection = await asyncpg.connect(dsn)
        for query in (*queries, pause[1]):
            await connection.execute(query)
        await connection.close()
