"""The decorator of what schedules run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar, get_args, get_origin, overload

from chimpbase._app.decorator_arguments import Handler, Keeper, check_payload, flag_of, retry_of, timeout_of
from chimpbase._app.definitions import Cron, source_of
from chimpbase._app.schedule_terms import schedule_terms
from chimpbase._core.codec import Codec, codec_for
from chimpbase._core.cron import Cadence
from chimpbase._core.errors import UsageError
from chimpbase._core.occurrence import Occurrence
from chimpbase._core.parameters import Parameters
from chimpbase._core.retry import Retry
from chimpbase._core.values import Misfire, Overlap

T = TypeVar("T")


class _DecorateCron(Protocol):
    def __call__(self, function: Handler[Occurrence[T]], /) -> Cron[T]: ...


class CronDecorator(Keeper):
    """`cron`."""

    @overload
    def cron(
        self,
        cadence: str | Cadence | None = None,
        *,
        tz: str | None = ...,
        name: str | None = ...,
        misfire: Misfire = ...,
        max_missed: int = ...,
        overlap: Overlap = ...,
        jitter: timedelta | float | None = ...,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        transaction: bool = ...,
    ) -> _DecorateCron: ...
    @overload
    def cron(
        self,
        cadence: str | Cadence,
        *,
        payload: T,
        tz: str | None = ...,
        name: str | None = ...,
        misfire: Misfire = ...,
        max_missed: int = ...,
        overlap: Overlap = ...,
        jitter: timedelta | float | None = ...,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        transaction: bool = ...,
    ) -> Callable[[Handler[Occurrence[T]]], Cron[T]]: ...
    def cron(
        self,
        cadence: str | Cadence | None = None,
        *,
        payload: Any = None,
        tz: str | None = None,
        name: str | None = None,
        misfire: Misfire = "last",
        max_missed: int = 100,
        overlap: Overlap = "allow",
        jitter: timedelta | float | None = None,
        retry: Retry | None = None,
        timeout: timedelta | float | None = None,
        transaction: bool = True,
    ) -> Any:
        """Define a schedule: 5 fields (minute first), 6 (second first), `@daily` and its like, `every(minutes=5)`.

        Each instant becomes one job, whatever the number of processes; `payload` comes with it. `misfire` says what
        becomes of instants that passed while nothing ran: the latest one is made up for (`last`), the latest
        `max_missed` (`all`), none (`skip`). `overlap` says what happens when the job of the occurrence before has not
        ended: both run (`allow`), the new one is left out (`skip`), or waits for it (`queue`), or ends it
        (`cancel_previous`). `jitter` puts each job off by up to that time. `tz` is "UTC" unless given. Without a
        cadence it has no schedule of its own, and `ctx.cron.schedule` makes any number at run time.

        Example:
            >>> @cron("0 9 * * 1-5", tz="Europe/Lisbon")
            ... async def report(ctx: Ctx, due: Occurrence) -> None: ...
            >>> report.cadence.explain()
            'At 09:00 on Monday through Friday (Europe/Lisbon)'
        """

        def decorate(function: Callable[..., Any]) -> Cron[Any]:
            title = name or function.__name__
            try:
                # checked before the payload is, which needs the handler's type
                terms = (
                    cadence
                    if cadence is None
                    else schedule_terms(
                        title,
                        cadence,
                        tz=tz,
                        misfire=misfire,
                        max_missed=max_missed,
                        overlap=overlap,
                        jitter=jitter,
                    )
                )
                codec = _payload_codec(function)
                if terms is not None:
                    text = codec.encode(payload, subject=f"payload of schedule {title!r}")
                    terms = replace(terms, payload=text)
            except UsageError as error:
                raise UsageError(f"@cron of {function.__name__}: {error} ({source_of(function)})") from None
            return self._keep(
                Cron(
                    name=title,
                    function=function,
                    schedule=terms,
                    payload_codec=codec,
                    retry=retry_of(retry),
                    timeout=timeout_of(timeout),
                    transaction=flag_of(transaction, subject="transaction"),
                )
            )

        return decorate


def _payload_codec(function: Callable[..., Any]) -> Codec[Any]:
    """What the handler says its occurrences carry: `Occurrence[Customer]` names it, `Occurrence` takes anything."""
    items = Parameters.from_function(function).items
    if len(items) != 1:
        check_payload(function, Occurrence)
    asked = items[0].annotation
    if asked in (Any, Occurrence):
        return codec_for(Any)
    if get_origin(asked) is not Occurrence:
        words = getattr(asked, "__name__", str(asked))
        raise UsageError(
            f"it takes {words}, but is sent an Occurrence, whose payload is `due.payload`. Take Occurrence[{words}]."
        )
    return codec_for(get_args(asked)[0])
