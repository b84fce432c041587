"""`ctx.kv`: keys and JSON values. Each verb is one statement of the unit of work."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.codec import codec_for
from chimpbase._core.durations import seconds
from chimpbase._core.names import check_key
from chimpbase._store import kv

_ANY = codec_for(Any)


class KvClient:
    """Keys and JSON values in the transaction of this call. Keys have 1 to 512 bytes; expired ones are absent."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` when there is none or it has expired.

        Raises:
            PayloadError: the key cannot be one.
        """
        check_key("key", key)
        async with self._frame.statement() as connection:
            text = await kv.get(connection, namespace="", key=key)
        return default if text is None else _ANY.decode(text, subject=f"value of key {key!r}")

    async def set(self, key: str, value: Any, *, ttl: timedelta | float | None = None) -> None:
        """Store a value for `ttl` (seconds if a number) by the database's clock, or for ever. It replaces an old `ttl`.

        Raises:
            PayloadError: the key or the value cannot be stored. No SQL was sent.
        """
        check_key("key", key)
        text = _ANY.encode(value, subject=f"value of key {key!r}")
        lasts = None if ttl is None else seconds(ttl, subject="ttl", minimum=timedelta(milliseconds=1))
        async with self._frame.statement() as connection:
            await kv.set(connection, namespace="", key=key, value=text, ttl=lasts)

    async def delete(self, key: str) -> bool:
        """Remove a key; whether it was there.

        Raises:
            PayloadError: the key cannot be one.
        """
        check_key("key", key)
        async with self._frame.statement() as connection:
            return await kv.delete(connection, namespace="", key=key)


class SyncKv:
    """The blocking face of `KvClient`, whose verbs mean the same."""

    def __init__(self, client: Callable[[], KvClient], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    def get(self, key: str, default: Any = None) -> Any:
        return self._wait(self._client().get(key, default))

    def set(self, key: str, value: Any, *, ttl: timedelta | float | None = None) -> None:
        self._wait(self._client().set(key, value, ttl=ttl))

    def delete(self, key: str) -> bool:
        return self._wait(self._client().delete(key))
