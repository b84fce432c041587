"""A database URL as the variables of libpq: so that a password is in the environment of psql, and never in its argv.

Absent on purpose: connecting, and judging the URL, which has been done when it comes here.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

from chimpbase.cli.failures import USAGE, CommandFailed

_VARIABLES = {
    "application_name": "PGAPPNAME",
    "channel_binding": "PGCHANNELBINDING",
    "client_encoding": "PGCLIENTENCODING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "database": "PGDATABASE",
    "dbname": "PGDATABASE",
    "gssencmode": "PGGSSENCMODE",
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "krbsrvname": "PGKRBSRVNAME",
    "options": "PGOPTIONS",
    "passfile": "PGPASSFILE",
    "password": "PGPASSWORD",
    "port": "PGPORT",
    "service": "PGSERVICE",
    "ssl": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslcrl": "PGSSLCRL",
    "sslkey": "PGSSLKEY",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslrootcert": "PGSSLROOTCERT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "user": "PGUSER",
}


def libpq_environment(dsn: str) -> dict[str, str]:
    """The PG* variables that say what the URL says. `postgresql://` alone says nothing: the environment does.

    Raises:
        CommandFailed: the URL has an option that libpq takes from no variable.
    """
    parts = urlsplit(dsn)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    found = {"user": unquote(user), "password": unquote(password), "dbname": unquote(parts.path.removeprefix("/"))}
    pairs = [_host_and_port(one) for one in hosts.split(",")]
    found["host"] = ",".join(host for host, _ in pairs)
    ports = [port for _, port in pairs]
    found["port"] = ",".join(ports) if any(ports) else ""
    found |= dict(parse_qsl(parts.query))
    if unknown := sorted(found.keys() - _VARIABLES.keys()):
        raise CommandFailed(
            f"The database URL has the option {unknown[0]!r}, which psql takes from no variable. "
            "Start psql yourself, or leave the option out.",
            code=USAGE,
        )
    return {_VARIABLES[name]: value for name, value in found.items() if value.strip(",")}


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":")
    host, _, port = text.partition(":")
    return unquote(host), port
