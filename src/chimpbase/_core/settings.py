"""Settings: every knob of the runtime, its default, its limits, its meaning, and where its value came from.

One table, the fields of `Settings`, feeds the environment, pyproject.toml, keyword overrides, `config` and the docs.
Invariant: a Settings that exists is checked as a whole, and no secret is in its repr, its description or its errors.
Absent on purpose: reading files or `os.environ`; the caller reads, `load` judges.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, cast

from chimpbase._core.durations import format_duration, parse_duration, seconds
from chimpbase._core.errors import ConfigError, UsageError

PREFIX = "CHIMPBASE_"

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
# test suites have variables of their own, and Kubernetes puts CHIMPBASE_PORT=tcp://10.0.0.1:80 and its like into every
# pod beside a Service called "chimpbase"
_NOT_OURS = re.compile(r"CHIMPBASE_(DEBUG|STATE_DIR|TEST_.*|SERVICE_(HOST|PORT.*)|PORT_[0-9]+_(TCP|UDP|SCTP).*)")
_KUBERNETES_VALUE = re.compile(r"(tcp|udp|sctp)://")
_AUTHORITY = re.compile(r"(?<=://).*@", re.DOTALL)


class SettingLine(NamedTuple):
    """One line of `Settings.describe`. `source` is "default", "override", "pyproject.toml" or an environment
    variable.
    """

    name: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one sort of setting is read: `read` raises ValueError, `expected` says what it takes."""

    read: Callable[[object], Any]
    expected: str


def _setting(
    default: Any, kind: _Kind, doc: str, *, secret: bool = False, optional: bool = False, env: tuple[str, ...] = ()
) -> Any:
    """Declare a setting. `env` names variables of others that also set it, such as DATABASE_URL."""
    metadata = {"kind": kind, "doc": doc, "secret": secret, "optional": optional or default is None, "env": env}
    return field(default=default, metadata=metadata)


def _text(expected: str) -> _Kind:
    def read(value: object) -> str:
        if isinstance(value, PurePath):
            value = str(value)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError
        return value.strip()

    return _Kind(read, expected)


def _number(minimum: int, maximum: int) -> _Kind:
    def read(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value, re.ASCII):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise ValueError
        return value

    return _Kind(read, f"a whole number from {minimum} to {maximum}")


def _duration(minimum: timedelta, maximum: timedelta) -> _Kind:
    def read(value: object) -> timedelta:
        try:
            if isinstance(value, str) and not re.fullmatch(r"\s*[0-9]{1,9}(\.[0-9]{1,6})?\s*", value, re.ASCII):
                return parse_duration(value, subject="value", minimum=minimum, maximum=maximum)
            given = float(value) if isinstance(value, str) else cast(float, value)
            return seconds(given, subject="value", minimum=minimum, maximum=maximum)
        except UsageError:
            raise ValueError from None

    span = f"{format_duration(minimum)} to {format_duration(maximum)}"
    return _Kind(read, f"a duration from {span}, such as '15s', or a number of seconds")


def _choice(*choices: str) -> _Kind:
    def read(value: object) -> str:
        if not isinstance(value, str) or value.strip().lower() not in choices:
            raise ValueError
        return value.strip().lower()

    return _Kind(read, f"one of {', '.join(choices)}")


def _switch() -> _Kind:
    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.strip().lower() in (*_TRUE, *_FALSE):
            return value.strip().lower() in _TRUE
        raise ValueError

    return _Kind(read, "true or false")


_S, _MS, _DAY = timedelta(seconds=1), timedelta(milliseconds=1), timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process. Durations are timedelta; text forms such as "15s" are read by `load` only.

    Raises: ConfigError, from the constructor too, for a value out of range or values that do not fit together.
    """

    app: str | None = _setting(None, _text("module:name"), "The App to run, as module:name.")
    database_url: str | None = _setting(
        None,
        _text("postgresql://user:password@host:5432/database"),
        "The PostgreSQL to use. Without it a private one is started in data_directory.",
        secret=True,
        env=("DATABASE_URL",),
    )
    postgres_bin: str | None = _setting(
        None,
        _text("a directory"),
        "Where initdb and postgres of the private PostgreSQL are; found by itself if absent.",
    )
    data_directory: str = _setting(
        ".chimpbase/pg", _text("a directory"), "Where the private PostgreSQL keeps its data."
    )
    migrations: str = _setting("migrations", _text("a directory"), "The application's own SQL migrations.")
    host: str = _setting("127.0.0.1", _text("a host name or address"), "The address the HTTP server listens on.")
    port: int = _setting(8000, _number(0, 65535), "The HTTP port; 0 takes a free one.", env=("PORT",))
    reuse_port: bool = _setting(
        default=False, kind=_switch(), doc="Let several processes of this machine share the HTTP port."
    )
    pool_size: int = _setting(20, _number(1, 1000), "Most connections to PostgreSQL for handlers, per process.")
    concurrency: int = _setting(10, _number(1, 10_000), "Jobs of one queue that a process runs at once.")
    threads: int = _setting(16, _number(1, 1000), "Threads for handlers that are plain `def` functions.")
    lease: timedelta = _setting(
        15 * _S, _duration(_S, _DAY), "How long a silent process keeps its jobs before others take them."
    )
    heartbeat: timedelta = _setting(
        None, _duration(100 * _MS, _DAY), "How often a process renews its lease; a third of the lease if absent."
    )
    poll: timedelta = _setting(
        _S, _duration(10 * _MS, 3600 * _S), "The longest an idle queue waits before it looks for work unasked."
    )
    grace: timedelta = _setting(
        10 * _S, _duration(0 * _S, _DAY), "How long a stopping process lets its running jobs finish."
    )
    event_retention: timedelta = _setting(
        30 * _DAY, _duration(timedelta(hours=1), 3650 * _DAY), "How long published events are kept, to be replayed."
    )
    dead_retention: timedelta = _setting(
        30 * _DAY, _duration(60 * _S, 3653 * _DAY), "How long dead letters are kept before they are deleted."
    )
    run_retention: timedelta = _setting(
        30 * _DAY, _duration(60 * _S, 3653 * _DAY), "How long ended workflow runs are kept, by when they were started."
    )
    statement_budget: timedelta = _setting(
        10 * _S, _duration(100 * _MS, _DAY), "How long one of the runtime's own statements may take."
    )
    notify: bool = _setting(
        default=True, kind=_switch(), doc="Wake other processes with NOTIFY; off behind a transaction pooler."
    )
    log_level: str = _setting(
        "info", _choice("debug", "info", "warning", "error", "critical"), "The least level logged."
    )
    log_format: str = _setting(
        "auto", _choice("auto", "text", "json"), "Log lines as text or JSON; auto is text on a terminal."
    )
    secrets_dir: str | None = _setting(
        None, _text("a directory"), "A directory with one file per secret, named after it."
    )
    env_file: str | None = _setting(".env", _text("a file"), "A file of NAME=value lines for secrets.", optional=True)
    sources: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)

    def __post_init__(self) -> None:
        for found in _fields():
            value = getattr(self, found.name)
            if value is not None or not found.metadata["optional"]:
                object.__setattr__(self, found.name, _read(found, value, source="override"))
        if cast("timedelta | None", self.heartbeat) is None:
            object.__setattr__(self, "heartbeat", self.lease // 3)
        if self.heartbeat * 3 > self.lease:
            raise ConfigError(
                f"heartbeat is {format_duration(self.heartbeat)} and lease {format_duration(self.lease)}: a process "
                "must beat three times within its lease, or one late beat loses its jobs. Lower it or raise lease.",
                key="heartbeat",
                expected=f"at most {format_duration(self.lease // 3)}",
            )

    def __repr__(self) -> str:
        chosen = [f"{line.name}={line.value}" for line in self.describe() if line.source != "default"]
        return f"Settings({', '.join(chosen)})"

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        toml: Mapping[str, object] | None = None,
    ) -> Settings:
        """Settle every setting: override, else environment, else `toml` (the table [tool.chimpbase]), else default.

        An override of None and an empty environment variable count as absent. A CHIMPBASE_ variable that is no setting
        is an error, unless Kubernetes made it up or it begins with CHIMPBASE_TEST_. In `toml` a name may have dashes.

        Raises: ConfigError, for the first thing that is wrong, with the nearest name for an unknown one.
        """
        given: dict[str, tuple[object, str]] = {}
        for key, value in (toml or {}).items():
            given[_known(key.replace("-", "_"), shown=f"tool.chimpbase.{key}", prefix="tool.chimpbase.")] = (
                value,
                "pyproject.toml",
            )
        given |= _from_environment(environ or {})
        for key, value in (overrides or {}).items():
            if value is not None or key not in _names():
                given[_known(key, shown=key)] = (value, "override")
        values = {f.name: _read(f, *given[f.name]) for f in _fields() if f.name in given}
        return cls(**cast(Any, values), sources={name: source for name, (_, source) in given.items()})

    def describe(self) -> list[SettingLine]:
        """Return name, value and source of every setting, in the order of the documentation. Secrets are masked."""
        return [
            SettingLine(
                found.name,
                _shown(getattr(self, found.name), secret=found.metadata["secret"]),
                self.sources.get(found.name) or _default_source(self, found),
            )
            for found in _fields()
        ]


class SettingHelp(NamedTuple):
    """What the documentation says about one setting."""

    name: str
    env: str
    default: str
    expected: str
    doc: str


def documented() -> list[SettingHelp]:
    """Return every setting with its variable, default and meaning: the reference page and `--help` are made of this."""
    return [
        SettingHelp(
            found.name,
            PREFIX + found.name.upper(),
            _shown(found.default, secret=False),
            found.metadata["kind"].expected,
            found.metadata["doc"],
        )
        for found in _fields()
    ]


def _fields() -> list[dataclasses.Field[Any]]:
    return [found for found in dataclasses.fields(Settings) if "kind" in found.metadata]


def _names() -> list[str]:
    return [found.name for found in _fields()]


def _known(name: str, *, shown: str, prefix: str = "") -> str:
    names = _names()
    if name in names:
        return name
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    near = f"{prefix}{close[0].upper() if prefix == PREFIX else close[0]}" if close else ""
    hint = f"Did you mean {near!r}?" if close else f"The settings are: {', '.join(names)}."
    raise ConfigError(f"There is no setting {shown!r}. {hint}", key=shown, expected=close[0] if close else None)


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    given: dict[str, tuple[object, str]] = {}
    for found in _fields():
        for variable in (PREFIX + found.name.upper(), *found.metadata["env"]):
            value = environ.get(variable, "").strip()
            if value and not (found.name == "port" and _KUBERNETES_VALUE.match(value)):
                given[found.name] = (value, variable)
                break
    for variable, value in environ.items():
        if variable.startswith(PREFIX) and value.strip() and not _NOT_OURS.fullmatch(variable):
            _known(variable.removeprefix(PREFIX).lower(), shown=variable, prefix=PREFIX)
    return given


def _read(found: dataclasses.Field[Any], value: object, source: str) -> Any:
    kind: _Kind = found.metadata["kind"]
    try:
        return kind.read(value)
    except ValueError:
        got = "a value that is hidden here" if found.metadata["secret"] else f"{value!r:.60}"
        place = f" (from {source})" if source != "override" else ""
        raise ConfigError(
            f"The setting {found.name}{place} is {got}; it must be {kind.expected}.",
            key=found.name,
            expected=kind.expected,
        ) from None


def _shown(value: object, *, secret: bool) -> str:
    if isinstance(value, timedelta):
        return format_duration(value)
    if secret and isinstance(value, str):
        # user, password and every option may be secret; host and database are what an operator needs to see
        return _AUTHORITY.sub("***@", value).partition("?")[0] if "://" in value else "***"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _default_source(settings: Settings, found: dataclasses.Field[Any]) -> Literal["default", "override"]:
    value = getattr(settings, found.name)
    derived = found.name == "heartbeat" and value == settings.lease // 3
    return "default" if value == found.default or derived else "override"
