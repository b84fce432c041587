"""The pytest plugin.

pytest loads it in every project of an environment that has chimpbase. So it imports no more than Python itself does on
the way here, and starts nothing before a test asks for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

_SERVER = "chimpbase._app.rehearsal_server"


@pytest.fixture
def chimpbase_database() -> Iterator[str]:
    """The URL of a fresh database with the runtime's own tables, dropped after the test.

    For `app.running(database_url=...)` and the like; `rehearse(app)` makes its own.
    """
    from chimpbase._app.rehearsal_server import this_process

    server = this_process()
    url = server.submit(server.make(project=None)).result(timeout=60)
    yield url
    server.submit(server.drop(url)).result(timeout=60)


def pytest_unconfigure() -> None:
    """Stop the server, if any test has asked for it."""
    if module := sys.modules.get(_SERVER):
        module.this_process().close()
