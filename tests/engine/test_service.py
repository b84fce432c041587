"""The loop of a service: it ticks when woken or due, and nothing ends it but a stop."""

from __future__ import annotations

import asyncio

import pytest

from chimpbase._core.errors import Unreachable
from chimpbase._engine.service import Service
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Counting(Service):
    """Counts its ticks, the first `failures` of which fail."""

    def __init__(self, *, failures: int = 0, error: Exception | None = None) -> None:
        super().__init__(random=lambda: 0.0)
        self.ticks, self._failures, self._error = 0, failures, error or ValueError()

    async def tick(self) -> float | None:
        self.ticks += 1
        if self.ticks <= self._failures:
            raise self._error
        return None


async def test_a_service_ticks_once_and_then_when_woken() -> None:
    service = Counting()
    service.start()
    for n in range(1, 4):
        await until(lambda n=n: service.ticks == n)
        service.wake()
    await service.stop()


@pytest.mark.parametrize("seconds", [-1, 0, 1e-9, 1e-6, 1e-4, 4e-4, 6e-4, 1e-3, 0.01])
async def test_appointments_of_any_length_are_kept_again_and_again(seconds: float) -> None:
    service = Counting()
    service.start()
    await until(lambda: service.ticks == 1)
    for n in range(2, 6):
        service.wake_in(seconds)
        service.wake_in(seconds)
        await until(lambda n=n: service.ticks >= n)
    await service.stop()


async def test_a_sooner_appointment_stands_and_a_later_one_gives_way() -> None:
    service = Counting()
    service.start()
    await until(lambda: service.ticks == 1)
    service.wake_in(0.05)
    service.wake_in(3600)
    await until(lambda: service.ticks == 2, deadline_s=2)
    service.wake_in(3600)
    service.wake_in(0.05)
    await until(lambda: service.ticks == 3, deadline_s=2)
    await service.stop()


@pytest.mark.parametrize("error", [ValueError("a bug"), Unreachable("no server")])
async def test_a_service_survives_its_errors_and_logs_them_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    service = Counting(failures=4, error=error)
    service.start()
    await until(lambda: service.ticks == 5)
    await service.stop()
    assert len(caplog.records) == 1


async def test_a_stop_lets_a_tick_end_and_cancels_one_that_does_not() -> None:
    class Slow(Service):
        def __init__(self) -> None:
            super().__init__(random=lambda: 0.0)
            self.ended = ""
            self.begun = asyncio.Event()

        async def tick(self) -> float | None:
            self.begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.ended = "cancelled"
                raise
            return None

    service = Slow()
    service.start()
    await service.begun.wait()
    await service.stop(patience_s=0.05)
    await service.stop()
    assert service.ended == "cancelled"
