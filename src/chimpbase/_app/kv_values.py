"""What the verbs of `ctx.kv` answer, and how the values of a namespace are read and written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from chimpbase._app.kv_token import KV
from chimpbase._app.payloads import taken
from chimpbase._core.codec import Codec, codec_for
from chimpbase._store.kv import Pair, Place

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """A key as it is stored. `version` is that of the set that stored it; `expires_at` None is never."""

    key: str
    value: T
    version: int
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """The answer of `ctx.kv.allow`, true or false by itself.

    `remaining` is how often it would be allowed right now; `retry_after` how long to wait before it is, zero when it
    was.
    """

    allowed: bool
    remaining: int
    retry_after: timedelta

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Space(Generic[T]):
    """A namespace: where its pairs are, and what their values are."""

    place: Place
    codec: Codec[T]
    ttl: timedelta | None
    named: bool

    def subject(self, key: str) -> str:
        """A key in messages."""
        namespace = self.place.namespace
        return f"value of key {key!r}" + (f" of namespace {namespace!r}" if namespace else "")

    def encode(self, key: str, value: Any) -> str:
        """The value as JSON text."""
        subject = self.subject(key)
        return self.codec.encode(taken(self.codec, value, subject, named=self.named), subject=subject)

    def decode(self, key: str, text: str) -> T:
        """The value of JSON text."""
        try:
            return self.codec.decode(text, subject="")
        except Exception:
            return self.codec.decode(text, subject=self.subject(key))

    def entry(self, pair: Pair) -> Entry[T]:
        """A stored pair, read."""
        assert pair.value is not None  # it was asked for
        return Entry(
            key=pair.key,
            value=self.decode(pair.key, pair.value),
            version=pair.version,
            expires_at=pair.expires_at,
        )


def shape(token: KV[T], *, named: bool) -> Space[T]:
    """The space of a token."""
    return Space(place=Place(token.cache, token.name), codec=token.codec, ttl=token.ttl, named=named)


#: The keys that belong to no namespace.
PLAIN: Space[Any] = Space(place=Place(False, ""), codec=codec_for(Any), ttl=None, named=False)


def allowance(allowed: bool, full_in_s: float, *, limit: int, window: timedelta, spent: timedelta) -> Allowance:
    """What is left of an allowance that is whole again in that time."""
    room_s = max(0.0, window.total_seconds() - full_in_s)
    # a microsecond more: what was rounded on its way must not cost a whole one
    remaining = math.floor((room_s + 1e-6) * limit / window.total_seconds())
    wait_s = 0.0 if allowed else max(1e-6, spent.total_seconds() - room_s)
    return Allowance(allowed=allowed, remaining=remaining, retry_after=timedelta(seconds=wait_s))
