"""Payloads of older and newer shapes: what is read through upcasts, and what is left to a newer process.

A job says in its headers which version of its queue's payload it carries; one that says nothing carries version 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from chimpbase._app.tokens import Queue
from chimpbase._core.errors import PayloadError
from chimpbase._core.text import describe_briefly

#: Reads a payload (a JSON text) with the help of its headers.
Reader = Callable[[str, "str | None"], Any]
_JSON = msgspec.json.Decoder()


def reader(queue: Queue[Any]) -> Reader:
    """What reads the payloads of a queue's jobs, whatever version they are of.

    Raises (the reader): PayloadError, also for whatever an upcast raises.
    """
    subject = f"payload of queue {queue.name!r}"
    if queue.version == 1:
        decode = queue.codec.decode
        return lambda payload, headers: decode(payload, subject=subject)

    def read(payload: str, headers: str | None) -> Any:
        version = version_of(headers)
        if version >= queue.version:
            return queue.codec.decode(payload, subject=subject)
        value = _JSON.decode(payload)
        for step in range(version, queue.version):
            upcast = queue.upcasts.get(step)
            if upcast is None:
                raise PayloadError(f"it is of version {version}, and nothing upcasts from {step}", subject=subject)
            try:
                value = upcast(value)
            except Exception as error:
                raise PayloadError(f"upcast from {step}: {describe_briefly(error)}", subject=subject) from error
        return queue.codec.convert(value, subject=subject)

    return read


def version_of(headers: str | None) -> int:
    """The version of the payload beside these headers (a JSON text)."""
    found = _JSON.decode(headers).get("version") if headers and '"version"' in headers else None
    return found if type(found) is int and found > 0 else 1


def is_newer(queue: Queue[Any], headers: str | None) -> bool:
    """Whether a job with these headers was enqueued by newer code than this, which alone can read it."""
    return version_of(headers) > queue.version


def with_version(headers: str, queue: Queue[Any]) -> str:
    """Headers (a JSON text) that also say of which version the payload is."""
    return headers if queue.version == 1 else f'{headers[:-1]},"version":{queue.version}}}'
