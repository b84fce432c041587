"""Turns workflows into what the engine can run: the code of one version, given a journal.

A run whose code raises is compensated before it ends; a run of an older version may be moved to this one first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from chimpbase._app.backstage import Backstage
from chimpbase._app.definitions import Workflow
from chimpbase._app.old_run import OldRun
from chimpbase._app.origin import Origin
from chimpbase._app.registry import Registry
from chimpbase._app.wf import Wf
from chimpbase._app.workflow_code import WorkflowCode, read_code
from chimpbase._core.errors import AttemptError
from chimpbase._core.retry import Retry
from chimpbase._core.text import name_and_message
from chimpbase._core.values import INTERNAL_QUEUES, LoadedRun, QueueId
from chimpbase._engine.activator import Code
from chimpbase._engine.attempt import Attempt, Handler, Handling, Outcome
from chimpbase._engine.steps import Steps

#: An activation fails only when the database or the process does; its run's own failures are recorded, not retried.
ACTIVATION_RETRY = Retry(max_attempts=20, first=timedelta(seconds=0.2), cap=timedelta(seconds=30))


def migrating(backstage: Backstage, ids: Mapping[str, QueueId]) -> list[Handling]:
    """How this process works the queues of old versions, whose runs it moves to newer ones."""
    return [
        Handling(
            queue=ids[name],
            name=name,
            kind="activation",
            run=activation(backstage, definition),
            slots=definition.concurrency,
            retry=ACTIVATION_RETRY,
        )
        for name, definition in old_queues(backstage.registry).items()
    ]


def old_queues(registry: Registry) -> dict[str, Workflow[Any, Any]]:
    """The queues of versions that are not registered any more, by name, and who takes their runs over."""
    return {
        f"{INTERNAL_QUEUES['activation']}{name}@{old}": definition
        for (name, _), definition in sorted(registry.workflows.items())
        for old in definition.migrate
        if (name, old) not in registry.workflows
    }


def impurities(registry: Registry) -> list[str]:
    """What stands in workflows and answers otherwise each time they are run again, in sentences."""
    return [
        f"{definition.title} uses {one}: its code runs again after each rest, and must then decide the same"
        for _, definition in sorted(registry.workflows.items())
        for one in read_code(definition.function).warnings
    ]


def code_of(backstage: Backstage, definition: Workflow[Any, Any], known: WorkflowCode) -> Code:
    """A workflow as the engine knows it."""
    title, cause = definition.title, f"workflow:{definition.name}"
    input_codec, takes_input = definition.input_codec, bool(definition.parameters.items)

    async def body(journal: Steps, attempt: Attempt | None) -> str:
        run = journal.run
        origin = Origin(
            title=title,
            name=definition.name,
            cause=cause,
            new_trace=backstage.new_trace,
            claimed=attempt.job if attempt else None,
            queue=attempt.queue_name if attempt else "",
        )
        wf = Wf(backstage, journal, origin)
        journal.view = wf.view
        given = input_codec.decode(run.input, subject=f"input of run {run.id!r}")
        try:
            result = await definition.function(wf, *((given,) if takes_input else ()))
            return definition.return_codec.encode(result, subject=f"result of run {run.id!r}")
        except (Exception, asyncio.CancelledError) as error:
            # a closed journal means that the activation is being unwound, and nothing may act any more
            if not journal.closed and (failed := await wf.compensate()):
                raise AttemptError(f"{name_and_message(error)}; not undone: {'; '.join(failed)}") from error
            raise

    def migrate(run: LoadedRun) -> tuple[str, Mapping[str, str | None]] | None:
        if run.version not in definition.migrate:
            return None
        old = OldRun(run)
        definition.migrate[run.version](old)
        return old.changes()

    return Code(
        workflow=definition.name,
        version=definition.version,
        body=body,
        hash=known.hash,
        knows=known.knows,
        migrate=migrate,
    )


def activation(backstage: Backstage, definition: Workflow[Any, Any]) -> Handler:
    """How an activation of a workflow's runs is handled."""
    activate = backstage.engine.activator.activating(code_of(backstage, definition, read_code(definition.function)))

    async def run(attempt: Attempt) -> Outcome:
        attempt.was_read = True  # what is wrong with a run's input is the run's failure
        return await activate(attempt)

    return run
