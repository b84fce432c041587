"""Any order of unique jobs, dependencies, ends of every kind, cancelling, striking, redriving and purging, with limits.

The model says what each enqueue must answer and in which state each job must be; after each event both are compared,
and in the end whatever may run has run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimpbase._core.errors import AlreadyEnqueued
from chimpbase._core.limits import Limits
from chimpbase._core.unique import Unique
from chimpbase._core.values import ClaimedJob, JobId, NewJob
from chimpbase._store import after, cancels, dead_letters, jobs, strikes, unique
from tests.faults.invariants import one_query
from tests.store.stories import KEYS, LIMITS, SECONDS, Event, events_of, told_often
from tests.store.story import Story, World, world_at

_PLACES = one_query(
    (
        "a job is in one place",
        "a running job has a process",
        "a running job was claimed",
        "no more attempts were free than made",
    )
)
_STATES = """
    select id, 'waiting', payload, coalesce(key, ''), false from chimpbase.job where process is null
    union all select id, 'running', payload, coalesce(key, ''), false from chimpbase.job where process is not null
    union all select id, 'waiting', payload, key, false from chimpbase.job_wait
    union all select id, 'waiting', payload, coalesce(key, ''), due_at = 'infinity' from chimpbase.job_later
    union all select id, 'dead', payload, coalesce(key, ''), false from chimpbase.job_dead
    union all select id, outcome, payload, coalesce(key, ''), false from chimpbase.job_done
"""
_LIVE, _ENDED = ("waiting", "running"), ("completed", "cancelled")
_AFTER_END = {"finish": "completed", "bury": "dead", "cancel": "cancelled"}
#: How far two looks at the clock may be apart; nothing is foretold of what falls due in between.
_BLUR_S = 1.0


@dataclass
class Known:
    """A job as the model knows it. `needs` are those it still waits for, and what it does when one is dead."""

    payload: str
    key: str
    state: str = "waiting"
    needs: dict[JobId, str] = field(default_factory=dict[JobId, str])


@dataclass
class Holder:
    """Who has a name, until when by the story's own time, and of which payload where only that one will do."""

    job: JobId
    until_s: float | None
    payload: str


class JobStory(Story):
    """A queue whose jobs are unique, need each other, die, and are held."""

    def __init__(self, world: World, limits: Limits | None, *, history: bool) -> None:
        super().__init__(world, limits)
        self.known: dict[JobId, Known] = {}
        self.names: dict[str, Holder] = {}
        self.history = history
        self.struck: dict[int, int] = {}
        if history:
            self._rows("update chimpbase.queue set retention = '1 day'")

    # What happens

    def enqueue_unique(self, rule: dict[str, Any], numbers: list[int], key: str | None, delay: float | None) -> None:
        payloads = [json.dumps({"n": n, "x": len(self.known) + place}) for place, n in enumerate(numbers)]
        if rule["by"] == "key":
            payloads, names = payloads[:1], [f"key {numbers[0]}"]
        else:
            names = [f"n {n}" for n in numbers]
        asked = Unique(
            key=f"k{numbers[0]}" if rule["by"] == "key" else None,
            fields=() if rule["by"] == "key" else ("n",),
            period=rule["period"],
            states=rule["states"],
            on_conflict=rule["conflict"],
        )
        new = self._new(payloads[0], key, delay, {"unique": asked.stored()})
        self._expect(new, names, payloads, asked)

    def enqueue_once(self, number: int, key: str | None) -> None:
        payload = json.dumps({"n": number % 2})
        new = self._new(payload, key, None, {"idempotency_key": f"k{number // 2}"})
        self._expect(new, [f"once {number // 2}"], [payload], None)

    def enqueue_after(self, which: list[int], failed: str, key: str | None, delay: float | None) -> None:
        if not self.known:
            return
        all_ids = list(self.known)
        needs = sorted({all_ids[n % len(all_ids)] for n in which})
        payload = json.dumps({"n": len(self.known) % 4})
        new = self._new(payload, key, delay, {"after": needs, "after_failed": failed})
        (id,) = self._do(jobs.enqueue_with, new, [payload])
        states = {need: self._seen(need) for need in needs}
        dependent = self.known[id] = Known(payload, key or "")
        for need, state in states.items():
            if state in _LIVE or state == "dead" or (failed == "cancel" and state == "cancelled"):
                dependent.needs[need] = failed
        for need, state in states.items():
            if need in dependent.needs and state not in _LIVE:
                self._resolve(need, str(state), only=id)

    def cancel_running(self, which: int) -> None:
        if not self.held:
            return
        process, job = self.held.pop(which % len(self.held))
        assert self._do(cancels.cancel, job=job.id, reason=None).outcome == "requested"
        (asked,) = [one for one in self._do(cancels.list_asked, process=process) if one.id == job.id]
        assert self._do(cancels.finish, process=process, jobs=[asked]) == {job.id}
        self._ended(job.id, "cancel")

    def redrive(self, which: int) -> None:
        if dead := [id for id, job in self.known.items() if job.state == "dead"]:
            self._redrive([dead[which % len(dead)]])

    def purge(self, which: int) -> None:
        if dead := [id for id, job in self.known.items() if job.state == "dead"]:
            gone = dead[which % len(dead)]
            filter = json.dumps({"ids": [gone]})
            assert self._do(dead_letters.purge, filter=filter, most=10) == 1
            self.known[gone].state = "gone"
            self._sweep_needs()
            self._resolve(gone, "completed")

    def strike(self, number: int) -> None:
        if number not in self.struck:
            held = json.dumps({"n": number})
            self.struck[number] = self._do(strikes.put, queue=self.queue, filter=held, reason=None, by="me")
            self._sweep_strikes()

    def lift(self) -> None:
        for strike in self.struck.values():
            assert self._do(strikes.lift, strike=strike) == self.queue
        self.struck = {}
        self._sweep_strikes()

    def sweep_names(self) -> None:
        self._do(unique.sweep, after=unique.FROM_THE_START, max_rows=1000)

    def admit(self, which: int, demand: int) -> None:
        if self.struck:
            self._sweep_strikes()  # as the striker does; what it has not seen yet stands in the way for so long
        super().admit(which, demand)

    def settle(self) -> None:
        """Nothing starves: what may run has run, then what only waited for dead letters that are redriven."""
        self.lift()
        self.override({"rate": None, "key_rate": None})
        self._work_all()
        dead = {id for id, job in self.known.items() if job.state == "dead"}
        for id, job in self.known.items():
            assert job.state not in _LIVE or job.needs, f"job {id} never ran"
        self._redrive(sorted(dead))
        self._work_all()
        assert {job.state for job in self.known.values()} <= {*_ENDED, "gone"}
        self.check()

    # What the model makes of it

    def _enqueued(self, new: NewJob, ids: list[JobId]) -> None:
        for id in ids:
            self.known[id] = Known(new.payload, new.key or "")

    def _begun(self, job: ClaimedJob) -> None:
        known = self.known[job.id]
        assert known.state == "waiting"
        assert not known.needs, f"job {job.id} began before {known.needs}"
        assert msgspec.json.decode(job.payload) == msgspec.json.decode(known.payload)
        assert json.loads(job.payload if job.payload[:1] == "{" else "{}").get("n") not in self.struck
        known.state = "running"

    def _ended(self, id: JobId, how: str) -> None:
        job = self.known[id]
        job.state = _AFTER_END.get(how, "waiting")
        if job.state != "waiting":
            job.needs = {}
            self._resolve(id, job.state)

    def _resolve(self, ended: JobId, state: str, only: JobId | None = None) -> None:
        """Tell those that need this one, or one of them, that it has ended."""
        for id, job in self.known.items():
            failed = job.needs.get(ended)
            if failed is None or only not in (None, id) or (state == "dead" and failed == "wait"):
                continue
            del job.needs[ended]
            if failed == "cancel" and state in ("dead", "cancelled"):
                self._ended(id, "cancel")

    def _seen(self, id: JobId) -> str | None:
        """A job's state as the database still knows it."""
        state = self.known[id].state
        return None if state == "gone" or (state in _ENDED and not self.history) else state

    def _expect(self, new: NewJob, names: list[str], payloads: list[str], rule: Unique | None) -> None:
        """Enqueue, and hold the answer against what the model says of each name."""
        conflict = rule.on_conflict if rule else "skip"
        blur = any(self._is_blurred(name) for name in names)
        last = dict(zip(names, payloads, strict=True)) if conflict == "replace" else {}
        wanted = {name: last.get(name, payload) for name, payload in reversed(list(zip(names, payloads, strict=True)))}
        held = {name: self.names[name] for name in wanted if not self._is_free(name, rule)}
        refused = [
            one.job
            for name, one in held.items()
            if conflict == "raise" or (rule is None and one.payload != wanted[name])
        ]
        twice = conflict == "raise" and len(wanted) < len(names)
        ids, existing = self._enqueue(new, payloads)
        if ids is None:
            assert blur or twice or refused
            assert blur or existing == (None if twice else min(refused))
            return
        assert blur or not (refused or twice)
        for name, id in zip(names, ids, strict=True):
            payload = wanted[name]
            if id not in self.known:
                assert blur or name not in held, f"{name} is held by {held.get(name)}"
                period = timedelta(days=7) if rule is None else rule.period
                until_s = None if period is None else self.shift.total_seconds() + period.total_seconds()
                self.known[id] = Known(payload, new.key or "")
                self.names[name] = Holder(id, until_s, payload)
                continue
            assert self.names[name].job == id
            assert blur or name in held or payloads.count(payload) > 1 or names.count(name) > 1
            if conflict == "replace" and self.known[id].state == "waiting":
                self.known[id].payload, self.known[id].key = payload, new.key or ""

    def _is_free(self, name: str, rule: Unique | None) -> bool:
        if (holder := self.names.get(name)) is None:
            return True
        if holder.until_s is not None and holder.until_s <= self.shift.total_seconds():
            return True
        if rule is None:
            return False
        state = self._seen(holder.job)
        if state is None:
            return holder.until_s is None or not {"completed", "cancelled", "dead"} & set(rule.states)
        return state not in rule.states or (rule.on_conflict == "replace" and state == "running")

    def _is_blurred(self, name: str) -> bool:
        holder = self.names.get(name)
        if holder is None or holder.until_s is None:
            return False
        return abs(holder.until_s - self.shift.total_seconds()) < _BLUR_S

    # What must hold

    def check(self) -> None:
        """Every job is in one place and in the state that the model says; one that needs another rests for ever."""
        self.what_is_held_is_what_runs()
        assert self._rows(_PLACES) == []
        found = {JobId(row[0]): row for row in self._rows(_STATES)}
        assert {id: row[1] for id, row in found.items()} == {
            id: state for id in self.known if (state := self._seen(id)) is not None
        }
        for id, (_, state, payload, key, rests) in found.items():
            job = self.known[id]
            assert (key, msgspec.json.decode(payload)) == (job.key, msgspec.json.decode(job.payload))
            assert rests == bool(job.needs), f"job {id} ({state}) needs {job.needs}"
        needs = {(need, id) for id, job in self.known.items() for need in job.needs}
        assert {tuple(row) for row in self._rows("select needs, job from chimpbase.job_after")} == needs

    # How

    def _new(self, payload: str, key: str | None, delay: float | None, asked: dict[str, Any]) -> NewJob:
        return NewJob(
            queue=self.queue,
            payload=payload,
            key=key,
            delay=None if delay is None else timedelta(seconds=delay),
            asked=msgspec.json.encode(asked).decode(),
        )

    def _enqueue(self, new: NewJob, payloads: list[str]) -> tuple[list[JobId] | None, int | None]:
        try:
            return self._do(jobs.enqueue_with, new, payloads), None
        except AlreadyEnqueued as error:
            return None, error.existing

    def _redrive(self, ids: list[JobId]) -> None:
        start = self._do(dead_letters.clock)
        filter = json.dumps({"ids": ids})
        redriven = self._do(dead_letters.redrive, filter=filter, start=start, gap=timedelta(0), most=1000)
        assert sorted(id for id, _ in redriven) == sorted(ids)
        for id in ids:
            self.known[id].state = "waiting"

    def _sweep_needs(self) -> None:
        since = 0
        while since := self._do(after.resolve_missed, since=since, most=1000):
            pass

    def _sweep_strikes(self) -> None:
        since: int | None = 0
        while since is not None:
            since = self._do(strikes.sweep, span=1000, after=since).next

    def _work_all(self) -> None:
        while self.held:
            self.end(0, "finish")
        for _ in range(len(self.known) + 5):
            self.wait(30.0)
            more = True
            while more:
                self.admit(0, 50) if self.limits else self.claim(0, 50)
                more = bool(self.held)
                while self.held:
                    self.end(0, "finish")
            if not any(job.state == "waiting" and not job.needs for job in self.known.values()):
                return


WHICH, DEMAND, N = st.integers(0, 1), st.integers(1, 6), st.integers(0, 3)
DELAYS = st.sampled_from([None, None, None, 3.0])
HOWS = ["finish", "finish", "finish", "fail", "snooze", "give back", "bury", "bury"]
STATES = ["waiting", "running", "completed", "cancelled", "dead"]
RULES = st.fixed_dictionaries(
    {
        "by": st.sampled_from(["key", "fields"]),
        "period": st.sampled_from([None, None, timedelta(seconds=4), timedelta(seconds=40)]),
        "states": st.sampled_from([("waiting", "running")] * 3 + [("waiting",), tuple(STATES)])
        | st.lists(st.sampled_from(STATES), min_size=1, unique=True).map(tuple),
        "conflict": st.sampled_from(["skip", "skip", "replace", "raise"]),
    }
)
EVENTS: list[Event] = [
    (2, JobStory.enqueue, {"key": KEYS, "priority": N, "number": st.integers(1, 2), "delay": DELAYS}),
    (
        6,
        JobStory.enqueue_unique,
        {"rule": RULES, "numbers": st.lists(N, min_size=1, max_size=3), "key": KEYS, "delay": DELAYS},
    ),
    (1, JobStory.enqueue_once, {"number": N, "key": KEYS}),
    (
        5,
        JobStory.enqueue_after,
        {
            "which": st.lists(st.integers(0, 50), min_size=1, max_size=3),
            "failed": st.sampled_from(["wait", "run", "cancel"]),
            "key": KEYS,
            "delay": DELAYS,
        },
    ),
    (5, JobStory.admit, {"which": WHICH, "demand": DEMAND}),
    (5, JobStory.claim, {"which": WHICH, "demand": DEMAND}),
    (10, JobStory.end, {"which": st.integers(0, 20), "how": st.sampled_from(HOWS)}),
    (3, JobStory.wait, {"seconds": st.sampled_from([0.1, 2.5, 30.0])}),
    (1, JobStory.crash, {"which": WHICH}),
    (1, JobStory.cancel, {"which": st.integers(0, 20)}),
    (1, JobStory.cancel_running, {"which": st.integers(0, 20)}),
    (1, JobStory.redrive, {"which": st.integers(0, 20)}),
    (1, JobStory.purge, {"which": st.integers(0, 20)}),
    (1, JobStory.strike, {"number": N}),
    (1, JobStory.lift, {}),
    (1, JobStory.pause_and_resume, {"which": WHICH}),
    (1, JobStory.declare, {"limits": LIMITS}),
    (1, JobStory.sweep_names, {}),
]


@pytest.mark.timeout(SECONDS)
def test_no_order_of_events_doubles_loses_or_starves_a_job(dsn: str) -> None:
    with world_at(dsn) as world:

        @told_often(20)
        @given(
            limits=st.none() | st.none() | LIMITS,
            history=st.booleans(),
            events=st.lists(events_of(EVENTS), min_size=15, max_size=40),
        )
        def tell(limits: Limits | None, history: bool, events: list[tuple[int, dict[str, Any]]]) -> None:
            story = JobStory(world, limits, history=history)
            for n, arguments in events:
                EVENTS[n][1](story, **arguments)
                story.check()
            story.settle()

        tell()
