"""The listener and the bell: hearing, gaps, dead sockets, coalescing."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimpbase._core.errors import ConfigError
from chimpbase._pg.bell import Bell, packed
from chimpbase._pg.connector import Connector
from chimpbase._pg.db import Db
from chimpbase._pg.listener import Listener
from tests.pg.proxy import proxy_before
from tests.waiting import until

SHORT = timedelta(milliseconds=100)


class Ear:
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.gaps = 0

    def hear(self, payload: str) -> None:
        self.heard.append(payload)

    def gap(self) -> None:
        self.gaps += 1


@asynccontextmanager
async def listening(dsn: str, ear: Ear, *, ping: timedelta = timedelta(seconds=10)) -> AsyncGenerator[Listener]:
    listener = Listener(
        Connector(dsn, application_name="ear", connect_timeout_s=0.5),
        "gossip",
        on_notify=ear.hear,
        on_gap=ear.gap,
        random=Random(1),
        ping_every=ping,
        ping_within=ping,
    )
    listener.start()
    try:
        yield listener
    finally:
        before = monotonic()
        await listener.stop()
        assert monotonic() - before < 0.5
        assert not listener.connected


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Db]:
    db = await Db.open(dsn, application_name="test", size=2)
    yield db
    await db.close(grace=timedelta(seconds=1))


@pytest.mark.anyio
async def test_what_is_notified_is_heard(dsn: str, db: Db) -> None:
    ear = Ear()
    async with listening(dsn, ear) as listener:
        listener.start()
        await until(lambda: ear.gaps == 1)
        assert listener.connected
        await db.execute("notify gossip, 'one'")
        await db.execute("notify other, 'two'")
        await db.execute("select pg_notify('gossip', 'three')")
        await until(lambda: ear.heard == ["one", "three"])
    assert ear.gaps == 1


@pytest.mark.anyio
async def test_a_listener_whose_backend_is_ended_listens_again(dsn: str, db: Db) -> None:
    ear = Ear()
    async with listening(dsn, ear):
        await until(lambda: ear.gaps == 1)
        await db.fetch("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'ear'")
        await until(lambda: ear.gaps == 2, deadline_s=2)
        await db.execute("notify gossip, 'again'")
        await until(lambda: ear.heard == ["again"])


@pytest.mark.anyio
async def test_a_frozen_listener_notices_by_its_own_silence(dsn: str, db: Db) -> None:
    ear = Ear()
    async with proxy_before(dsn) as proxy, listening(proxy.dsn, ear, ping=SHORT) as listener:
        await until(lambda: ear.gaps == 1)
        proxy.freeze()
        await until(lambda: not listener.connected, deadline_s=2)
        proxy.thaw()
        await until(lambda: ear.gaps == 2, deadline_s=4)
        await db.execute("notify gossip, 'back'")
        await until(lambda: ear.heard == ["back"])


@pytest.mark.anyio
async def test_a_listener_that_pings_stays_connected(dsn: str) -> None:
    ear = Ear()
    async with proxy_before(dsn) as proxy, listening(proxy.dsn, ear, ping=timedelta(milliseconds=20)):
        await until(lambda: proxy.seen.count(b"chimpbase_ping_") > 10)
        assert proxy.accepted == 1
    assert ear.gaps == 1
    assert ear.heard == []


@pytest.mark.anyio
async def test_stopping_never_waits_for_a_frozen_server(dsn: str) -> None:
    async with proxy_before(dsn) as proxy:
        proxy.freeze()
        async with listening(proxy.dsn, Ear()):
            await until(lambda: proxy.accepted)


@pytest.mark.anyio
async def test_a_listener_that_never_ran_can_be_stopped(dsn: str) -> None:
    async with listening(dsn, Ear()) as listener:
        await listener.stop()
        await listener.stop()


@pytest.mark.anyio
async def test_a_dead_server_is_reported_once_in_a_while(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "chimpbase.pg")
    ear = Ear()
    async with proxy_before(dsn) as proxy:
        proxy.close_door()
        async with listening(proxy.dsn, ear):
            await until(lambda: proxy.accepted >= 4)
            assert len(caplog.records) == 1
            assert "work is found by polling" in caplog.text
            proxy.open_door()
            await until(lambda: ear.gaps == 1)


@pytest.mark.anyio
async def test_a_fault_of_the_callback_does_not_end_the_listening(dsn: str, db: Db) -> None:
    class Clumsy(Ear):
        def hear(self, payload: str) -> None:
            super().hear(payload)
            raise ZeroDivisionError

    ear = Clumsy()
    async with listening(dsn, ear):
        await until(lambda: ear.gaps == 1)
        await db.execute("notify gossip, 'one'")
        await db.execute("notify gossip, 'two'")
        await until(lambda: ear.heard == ["one", "two"])


@pytest.mark.parametrize("channel", ["", "x" * 64, "é" * 32])
def test_a_channel_that_the_server_would_cut_is_refused(channel: str) -> None:
    with pytest.raises(ConfigError, match="1 to 63 bytes"):
        Listener(
            Connector("postgresql://h/d", application_name="ear"),
            channel,
            on_notify=lambda _: None,
            on_gap=lambda: None,
            random=Random(1),
        )


class Sent:
    """Notes the notifications a bell sends."""

    def __init__(self) -> None:
        self.payloads: list[str] = []

    def before(self, sql: str, args: Sequence[object]) -> None:
        if "pg_notify" in sql:
            self.payloads.append(str(args[1]))

    def after(self, sql: str, error: BaseException | None) -> None:
        pass


@pytest.mark.anyio
async def test_the_first_ring_goes_out_at_once_and_the_rest_together(dsn: str) -> None:
    ear, sent = Ear(), Sent()
    db = await Db.open(dsn, application_name="test", hook=sent)
    async with listening(dsn, ear):
        await until(lambda: ear.gaps == 1)
        bell = Bell(db, "gossip", rest=SHORT, quick=0)
        began = monotonic()
        bell.ring("a")
        await until(lambda: ear.heard == ["a"])
        assert monotonic() - began < 0.09
        for _ in range(100):
            for word in ("c", "b", "d"):
                bell.ring(word)
        await until(lambda: ear.heard == ["a", "b,c,d"])
        assert monotonic() - began >= 0.09
        bell.ring("e")
        await bell.close()
        await until(lambda: ear.heard == ["a", "b,c,d", "e"])
        bell.ring("f")
    assert sent.payloads == ["a", "b,c,d", "e"]
    await db.close(grace=timedelta(seconds=1))


@pytest.mark.anyio
async def test_a_few_rings_do_not_wait_for_each_other_and_many_do(dsn: str) -> None:
    ear, sent = Ear(), Sent()
    db = await Db.open(dsn, application_name="test", hook=sent)
    async with listening(dsn, ear):
        await until(lambda: ear.gaps == 1)
        bell = Bell(db, "gossip", rest=timedelta(minutes=1), quick=2)
        for count, word in enumerate(("a", "b", "c"), 1):
            bell.ring(word)
            await until(lambda count=count: len(ear.heard) == count)
        bell.ring("d")
        bell.ring("e")
        await bell.close()  # it rests for a minute now, unless it is told to end
        await until(lambda: ear.heard == ["a", "b", "c", "d,e"])
    await db.close(grace=timedelta(seconds=1))


@pytest.mark.anyio
async def test_a_bell_without_a_server_fails_nobody(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "chimpbase.pg")
    async with proxy_before(dsn) as proxy:
        db = await Db.open(proxy.dsn, application_name="test", budget=SHORT, connect_timeout=SHORT)
        proxy.freeze()
        bell = Bell(db, "gossip", rest=timedelta(milliseconds=10))
        bell.ring("a")
        await until(lambda: caplog.records)
        bell.ring("b")
        await bell.close()
        await db.close(grace=timedelta(0))
    assert len(caplog.records) == 1


@given(st.lists(st.text(alphabet="abcé", min_size=1, max_size=3000), unique=True, max_size=30))
def test_packed_words_fit_and_none_is_lost(words: list[str]) -> None:
    payloads = list(packed(words))
    assert all(0 < len(payload.encode()) <= 7999 for payload in payloads)
    assert sorted(word for payload in payloads for word in payload.split(",")) == sorted(words)


def test_a_word_too_long_to_send_is_left_out() -> None:
    assert list(packed(["a", "b" * 8000])) == ["a"]
    assert list(packed([])) == []
