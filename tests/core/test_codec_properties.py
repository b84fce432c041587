"""For any value at all: it is refused with a PayloadError, or it is stored and comes back the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimpbase._core.codec import codec_for, decode_json
from chimpbase._core.errors import PayloadError


@dataclass
class Inner:
    name: str
    count: int
    ratio: float | None = None


@dataclass
class Record:
    title: str
    at: datetime
    inner: list[Inner]
    by_name: dict[str, int]
    price: Decimal
    id: UUID
    blob: bytes
    tags: frozenset[str]
    free: Any = None


WILD_TEXT = st.text(st.characters(codec=None), max_size=6)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | WILD_TEXT
    | st.binary(max_size=3)
    | st.decimals(allow_nan=True)
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.uuids()
    | st.builds(object)
)
KEYS = WILD_TEXT | st.integers(-3, 3) | st.none() | st.booleans() | st.floats(0, 1)
WILD = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.tuples(inner)
        | st.builds(Inner, inner, inner, inner)
    ),
    max_leaves=8,
)
TAME_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
TAME = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TAME_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TAME_TEXT, inner, max_size=3),
    max_leaves=8,
)
TAME_RECORDS = st.builds(
    Record,
    title=TAME_TEXT,
    at=st.datetimes(timezones=st.just(UTC)),
    inner=st.lists(
        st.builds(
            Inner,
            TAME_TEXT,
            st.integers(-(2**63) + 1, 2**63 - 1),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=2,
    ),
    by_name=st.dictionaries(TAME_TEXT, st.integers(-5, 5), max_size=2),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    id=st.uuids(),
    blob=st.binary(max_size=4),
    tags=st.frozensets(TAME_TEXT, max_size=2),
    free=TAME,
)
WILD_RECORDS = st.builds(
    Record,
    title=WILD,
    at=WILD | st.datetimes(timezones=st.none() | st.just(UTC)),
    inner=st.lists(st.builds(Inner, TAME_TEXT | WILD, st.integers() | WILD, WILD), max_size=2) | WILD,
    by_name=st.dictionaries(KEYS, WILD, max_size=2),
    price=WILD | st.decimals(),
    id=WILD | st.uuids(),
    blob=WILD | st.binary(max_size=4),
    tags=st.frozensets(WILD_TEXT, max_size=2),
    free=WILD,
)


def stored(annotation: Any, value: Any) -> str | None:
    try:
        return codec_for(annotation).encode(value, subject="test")
    except PayloadError:
        return None


@given(TAME)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_plain_json_values_always_come_back(value: Any) -> None:
    text = stored(Any, value)
    assert text is not None
    assert codec_for(Any).decode(text, subject="test") == value
    assert decode_json(text.encode(), subject="test") == value


@given(TAME_RECORDS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_well_typed_records_always_come_back(value: Record) -> None:
    text = stored(Record, value)
    assert text is not None
    assert codec_for(Record).decode(text, subject="test") == value
    assert codec_for(Record).convert(value, subject="test") == value


@given(WILD)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_wild_value_is_stored_faithfully_or_refused(value: Any) -> None:
    text = stored(Any, value)
    if text is not None:
        text.encode()
        assert "\\u0000" not in text.replace("\\\\", "")
        back = codec_for(Any).decode(text, subject="test")
        # whatever JSON made of it is stable: storing what came back stores the same
        assert stored(Any, back) == text


@given(WILD_RECORDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_wild_record_is_stored_faithfully_or_refused(value: Record) -> None:
    text = stored(Record, value)
    if text is not None:
        back = codec_for(Record).decode(text, subject="test")
        assert stored(Record, back) is not None
        assert (back.title, back.by_name) == (value.title, value.by_name)
        assert back.at.utcoffset() == timedelta(0)


@given(st.text(max_size=30) | st.binary(max_size=30) | TAME.map(json.dumps))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_decoded_or_refused(text: str | bytes) -> None:
    paths: list[str] = []
    for annotation in (Any, Record, Inner, int, dict[str, float]):
        try:
            codec_for(annotation).decode(text, subject="test")
        except PayloadError as error:
            paths.append(error.path)
    assert all(path.startswith("$") for path in paths)


@given(WILD, st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_is_converted_or_refused(value: Any, lax: bool) -> None:
    subjects: set[str | None] = set()
    for annotation in (Any, Record, Inner, list[Inner], float, datetime):
        try:
            codec_for(annotation).convert(value, subject="test", lax=lax)
        except PayloadError as error:
            subjects.add(error.subject)
    assert subjects <= {"test"}


@given(st.binary(max_size=40) | TAME.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_from_outside_are_read_or_refused(text: bytes) -> None:
    try:
        value = decode_json(text, subject="body")
    except PayloadError:
        return
    assert stored(Any, value) is not None
