"""Asking a running server whether it is the one meant: one short connection, no state.

Readiness of a server this process starts is read from `postmaster.pid`, not here; this is for servers of other
processes and for `ensure`. Deliberately absent: any retry.
"""

from __future__ import annotations

from enum import Enum, auto
from pathlib import Path
from typing import Any, Final, cast

import asyncpg

from chimpbase._core.errors import ConfigError
from chimpbase._pg.embedded_cluster import DATABASE, USER, data_major

_TIMEOUT_S: Final = 5


class NoAnswer(Enum):
    """Why there is no connection now: it may come by waiting, or there is no socket to wait for."""

    WAIT = auto()
    NO_SOCKET = auto()


async def probe(sockets: Path, *, port: int, data: Path) -> str | NoAnswer:
    """The version of the server on `data` that listens in `sockets`, or why it does not answer.

    Raises: ConfigError when a server answers that does not know our role or database.
    """
    connect = cast("Any", asyncpg).connect
    try:
        connection = await connect(
            host=str(sockets), port=port, user=USER, database=DATABASE, ssl=False, timeout=_TIMEOUT_S
        )
    except FileNotFoundError:
        return NoAnswer.NO_SOCKET
    except asyncpg.TooManyConnectionsError:
        # it answers, which is what was asked
        return str(data_major(data))
    except (OSError, asyncpg.OperatorInterventionError, asyncpg.PostgresConnectionError):
        return NoAnswer.WAIT
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ConfigError(
            f"A PostgreSQL server runs on {data} and refuses the role {USER} or its database {DATABASE}: {error}. It "
            "was not made here; stop it, name another data directory, or set DATABASE_URL.",
            key="DATABASE_URL",
        ) from error
    try:
        served = await connection.fetchval("select current_setting('data_directory')")
        version = str(connection.get_settings().server_version)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return NoAnswer.WAIT
    finally:
        connection.terminate()
    return version.split(maxsplit=1)[0] if Path(served) == data else NoAnswer.WAIT
