"""Rehearsals here use the suite's own server; the plugin's tests let a project start one of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chimpbase._app.rehearsal_server import VARIABLE, this_process


@pytest.fixture(scope="session", autouse=True)
def the_suites_server(server_dsn: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, server_dsn)
        yield
        this_process().close()
