"""The lease setting: every value in its range can be chosen by itself."""

from __future__ import annotations

from datetime import timedelta

import pytest

from chimpbase._core.settings import Settings


@pytest.mark.parametrize("seconds", [1, 2, 4, 5, 7, 8, 15, 100])
def test_a_lease_needs_no_heartbeat_beside_it(seconds: int) -> None:
    settings = Settings.load({"lease": timedelta(seconds=seconds)})
    assert 2.9 < settings.lease / settings.heartbeat <= 3.01
    assert {line.name: line.source for line in settings.describe()}["heartbeat"] == "default"
