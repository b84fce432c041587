"""`chimpbase why`, which is `chimpbase job why`."""

from __future__ import annotations

from chimpbase.cli.commands import job
from chimpbase.cli.commands import operating as op
from chimpbase.cli.commands.options import Output


def why(id: job.Id, /, *, app: op.App = None, output: Output = "table") -> int:
    """Say why a job is not running, in one sentence."""
    return job.why(id, app=app, output=output)
