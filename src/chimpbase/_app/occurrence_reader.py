"""Reads the jobs of schedules: what was due, and the schedule's payload as the type that the handler names."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from chimpbase._core.codec import Codec
from chimpbase._core.errors import PayloadError
from chimpbase._core.occurrence import Occurrence


class _Stored(msgspec.Struct, frozen=True):
    schedule: str
    due_at: datetime
    payload: msgspec.Raw = msgspec.Raw(b"null")


_STORED = msgspec.json.Decoder(_Stored)


class OccurrenceReader:
    """Decodes as a codec does."""

    def __init__(self, payload: Codec[Any]) -> None:
        self._payload = payload

    def decode(self, text: str, *, subject: str) -> Occurrence[Any]:
        """The occurrence that a job is about.

        Raises: PayloadError.
        """
        try:
            stored = _STORED.decode(text)
        except msgspec.MsgspecError as error:
            raise PayloadError(str(error), subject=subject) from error
        payload = self._payload.decode(bytes(stored.payload), subject=f"payload of schedule {stored.schedule!r}")
        return Occurrence(stored.schedule, stored.due_at, payload)
