"""Listener: hears NOTIFY on one channel, on a connection of its own, for as long as the program runs.

    connect ──► LISTEN ──► on_gap() ──► hear; every 10 s a note to itself must come back within 5 s
       ▲                                   │ connection lost, or the note did not come back
       └────── rest, longer each time ◄────┘

Invariant: after each moment in which a notification may have been missed, `on_gap` is called once the channel is heard
again. A notification is a hint all the same; whoever needs to know polls too. Deliberately absent: sending (`bell`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any, Final

from chimpbase._core.errors import ChimpbaseError, ConfigError, Unreachable
from chimpbase._pg.connector import Connector
from chimpbase._pg.session import Session

_log = logging.getLogger("chimpbase.pg.listener")

# Without waiting for the disk: a notification needs none, and NOTIFY holds a lock of the whole server while it commits.
NOTIFY: Final = "/* bell.ring */ select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"

_FIRST_REST_S: Final = 0.05
_LONGEST_REST_S: Final = 5.0
_LOG_EVERY_S: Final = 5.0
_LONGEST_CHANNEL: Final = 63  # bytes; PostgreSQL would cut it and two names could become one


class Listener:
    """`start` and `stop` it, or run `run` as a task of your own."""

    def __init__(
        self,
        connector: Connector,
        channel: str,
        *,
        on_notify: Callable[[str], None],
        on_gap: Callable[[], None],
        random: Random,
        ping_every: timedelta = timedelta(seconds=10),
        ping_within: timedelta = timedelta(seconds=5),
    ) -> None:
        """`on_notify` gets each payload; `on_gap` says that some may have been missed. Both must return at once.

        Raises:
            ConfigError: `channel` is empty or longer than 63 bytes.
        """
        if not 0 < len(channel.encode()) <= _LONGEST_CHANNEL:
            raise ConfigError(f"A channel has 1 to {_LONGEST_CHANNEL} bytes; {channel!r} has {len(channel.encode())}.")
        self._connector = connector
        self._channel = channel
        self._on_notify = on_notify
        self._on_gap = on_gap
        self._random = random
        self._ping_every_s = ping_every.total_seconds()
        self._ping_within_s = ping_within.total_seconds()
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._rest_s = _FIRST_REST_S
        self._logged_at_s = -_LOG_EVERY_S
        # A channel nobody else hears, so that the note wakes no other process.
        self._ping_channel = f"chimpbase_ping_{random.getrandbits(64):016x}"
        self.connected = False

    def start(self) -> None:
        """Begin to listen, in a task. Starting twice is starting once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self.run(), name=f"listener {self._channel}")

    async def stop(self) -> None:
        """Stop listening. Safe at any time, and never waits for the network."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._hear()
            except ChimpbaseError as error:
                self._report(error)
            await asyncio.sleep(self._rest_s * self._random.uniform(0.5, 1))
            self._rest_s = min(self._rest_s * 2, _LONGEST_REST_S)

    async def _hear(self) -> None:
        """Connect and listen until the connection is lost, which is raised."""
        driver = await self._connector.connect()
        session = Session(driver, budget_s=self._ping_within_s)
        lost, came_back = asyncio.Event(), asyncio.Event()
        driver.add_termination_listener(lambda _: lost.set())

        def hear_ping(_connection: object, _pid: int, _channel: str, _payload: str) -> None:
            came_back.set()

        try:
            await self._subscribe(session, self._channel, self._deliver)
            await self._subscribe(session, self._ping_channel, hear_ping)
            await self._ping(
                session, came_back
            )  # before it is trusted: a transaction pooler accepts LISTEN and forgets it
            self.connected = True
            self._rest_s = _FIRST_REST_S
            self._tell_gap()
            while not await _happens(lost, within_s=self._ping_every_s):
                await self._ping(session, came_back)
            raise Unreachable(f"The connection that listens on {self._channel!r} was lost.")
        finally:
            self.connected = False
            session.terminate()

    async def _subscribe(self, session: Session, channel: str, hear: Callable[[Any, int, str, str], None]) -> None:
        async def listen(_: str) -> None:
            await session.driver.add_listener(channel, hear)

        await session.run(listen, f'listen "{channel}"', ())

    async def _ping(self, session: Session, came_back: asyncio.Event) -> None:
        came_back.clear()
        await session.execute(NOTIFY, (self._ping_channel, ""))
        if not await _happens(came_back, within_s=self._ping_within_s):
            raise Unreachable(
                f"A notification to ourselves did not come back within {self._ping_within_s:g} s. Behind a pooler in "
                "transaction mode none ever does; then polling alone is used. Connect directly for lower latency."
            )

    def _deliver(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        try:
            self._on_notify(payload)
        except Exception:  # a fault of the callback must not end the listening
            _log.exception("What %r announces could not be handled.", self._channel)

    def _tell_gap(self) -> None:
        try:
            self._on_gap()
        except Exception:  # a fault of the callback must not end the listening
            _log.exception("The gap in what %r announces could not be handled.", self._channel)

    def _report(self, error: ChimpbaseError) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._logged_at_s >= _LOG_EVERY_S:
            self._logged_at_s = now_s
            _log.warning("Not listening on %r, work is found by polling: %s", self._channel, error)


async def _happens(event: asyncio.Event, *, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return await event.wait()
    except TimeoutError:
        return False
