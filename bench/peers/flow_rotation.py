"""The workflows beside their peers, each in a database of its own on the same server."""

from __future__ import annotations

from bench.peers.rotation import Peer, told_by
from bench.stand import Stand

FLOW_PEERS = (
    Peer(
        name="DBOS 3.4.0",
        program="dbos_peer.py",
        environment="workflows",
        words="called in the process that runs it, without a queue, so that nothing is polled for",
        share=0.1,
    ),
    Peer(
        name="Absurd 0.5.1",
        program="absurd_peer.py",
        environment="workflows",
        words="eight workers with a connection each; who waits is told before its last commit",
        share=0.1,
    ),
)


async def run(peer: Peer, stand: Stand, *, runs: int, at_once: int) -> dict[str, float]:
    """Workflows per second (`rate`) and milliseconds from start to end (`p50`), with so many in flight.

    Raises:
        EnvironmentLacking: it cannot run here.
        PeerFailed: it ended without figures.
    """
    name = f"peer_{peer.program.split('_')[0]}_{at_once}"
    command = peer.command()
    await stand.value(f'drop database if exists "{name}" with (force)')
    dsn = await stand.database(name)
    try:
        return await told_by(command, dsn, str(max(100, 2 * at_once, int(runs * peer.share))), str(at_once))
    finally:
        await stand.value(f'drop database "{name}" with (force)')
