"""A PgBouncer of its own, in transaction mode, that refuses every startup parameter it does not know."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from tests.waiting import passing

_PATH = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"


def why_no_pooler() -> str:
    """Why there can be none here, or nothing."""
    return "" if shutil.which("pgbouncer", path=_PATH) else "pgbouncer is not installed"


class Pooler:
    """`dsn` leads through it. `upstream` is a TCP address, for it runs under an account that may not see sockets."""

    def __init__(self, upstream: str, directory: Path) -> None:
        parts = urlsplit(upstream)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.dsn = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}?sslmode=disable"
        self._process: asyncio.subprocess.Process | None = None
        self._config = directory / "pgbouncer.ini"
        self._config.write_text(f"""
            [databases]
            * = host={parts.hostname} port={parts.port} user={parts.username}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            default_pool_size = 12
            max_client_conn = 300
            server_login_retry = 1
            """)
        for path in (self._config, directory):
            path.chmod(0o755)

    async def start(self) -> None:
        program = shutil.which("pgbouncer", path=_PATH)
        assert program is not None
        account = ["-u", "nobody"] if os.geteuid() == 0 else []
        self._process = await asyncio.create_subprocess_exec(
            *(program, "-q", *account, str(self._config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        for _ in range(200):
            try:
                await (await asyncpg.connect(self.dsn, statement_cache_size=0)).close()
            except (OSError, asyncpg.PostgresError):
                await passing(0.05)
            else:
                return
        raise AssertionError("the pooler never answered")

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
