"""Dsn: which database, from what the program and its environment say.

Invariant: a password never leaves this module in a message; `redact` is how a DSN may be shown.
Deliberately absent: connecting, and reading service or password files, which is the driver's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from chimpbase._core.errors import ConfigError

EXPECTED: Final = "postgresql://user:password@host:5432/database"

# The libpq variables that say where to connect. PGPASSWORD, PGSSLMODE and their like only say how.
_PLACE_VARIABLES: Final = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")
_SCHEMES: Final = ("postgresql", "postgres")

# Greedy up to the last @, since a password with an unquoted @ or / must not show its second half.
_USERINFO: Final = re.compile(r"(?<=://)([^:@/?#]*):.*@", re.DOTALL)
_SECRET_OPTION: Final = re.compile(r"(?i)\b((?:ssl)?password|passwd|secret)(\s*=\s*)('[^']*'|[^&\s]*)")


def effective_dsn(url: str | None, *, environ: Mapping[str, str]) -> str | None:
    """The DSN to use: `url`, else DATABASE_URL, else the libpq variables, else None (nothing is configured).

    An empty value counts as absent. For the libpq variables the answer is `postgresql://`, which the driver completes
    from that same environment.

    Raises:
        ConfigError: the URL is not one of PostgreSQL, or cannot be read as a URL.
    """
    if url:
        return checked(url, key="database_url")
    if from_environment := environ.get("DATABASE_URL"):
        return checked(from_environment, key="DATABASE_URL")
    if any(environ.get(name) for name in _PLACE_VARIABLES):
        return "postgresql://"
    return None


def checked(url: str, *, key: str = "database_url") -> str:
    """`url`, stripped, if it can be a PostgreSQL URL at all; `key` names the setting in the error."""
    url = url.strip()
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in _SCHEMES:
        raise _refused(key, _wrong_scheme(scheme))
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, strict_parsing=True, keep_blank_values=True) if parts.query else []
    except ValueError:
        raise _refused(key, "cannot be read as a URL") from None
    if parts.fragment or "#" in url:
        raise _refused(key, "has an unquoted `#`, which cuts it short; write `%23`")
    if parts.netloc.count("@") > 1 or "@" in parts.path:
        raise _refused(key, "has an unquoted `@`, `/` or `?` in its password; write `%40`, `%2F`, `%3F`")
    for host in parts.netloc.rpartition("@")[2].split(","):
        _check_port(host, key)
    for name, value in options:
        if name == "port":
            _check_port(f":{value}", key)
    return url


def redact(dsn: str) -> str:
    """`dsn` with every password in it replaced by `***`, whether or not it is well formed."""
    return _SECRET_OPTION.sub(r"\1\2***", _USERINFO.sub(r"\1:***@", dsn))


def _check_port(host: str, key: str) -> None:
    port = host.rpartition("]")[2].partition(":")[2] if host.startswith("[") else host.partition(":")[2]
    for one in port.split(",") if port else ():
        if not (one.isascii() and one.isdigit() and 0 < int(one) < 65536):
            # The text after the colon may be half a password, so it is not repeated.
            raise _refused(key, "has a port that is not a number from 1 to 65535, or an unquoted `/` or `:` before it")


def _wrong_scheme(scheme: str) -> str:
    if scheme.partition("+")[0] in _SCHEMES:
        return f"starts with {scheme}://; leave out the driver's name"
    return f"starts with {scheme}://, which is not PostgreSQL" if scheme.isalnum() else "is not a URL"


def _refused(key: str, fault: str) -> ConfigError:
    return ConfigError(f"{key} {fault}. Expected {EXPECTED}.", key=key, expected=EXPECTED)
