"""Chimpbase: actions, subscriptions, workers, cron and workflows on the one PostgreSQL that holds your data.

The public door. Everything an application needs is here; names that begin with an underscore are not part of it.
"""

from __future__ import annotations

from chimpbase import errors
from chimpbase._app.app import App
from chimpbase._app.blueprint import Blueprint
from chimpbase._app.collection_token import Collection, Index
from chimpbase._app.cron_client import Schedule
from chimpbase._app.ctx import Ctx
from chimpbase._app.decorators import action, consumer, cron, on_broadcast, step, subscribe, worker, workflow
from chimpbase._app.entries import Entry
from chimpbase._app.job_handle import JobHandle, SyncJobHandle
from chimpbase._app.job_status import JobError, JobProgress, JobStatus
from chimpbase._app.kv_token import KV
from chimpbase._app.old_run import OldRun
from chimpbase._app.origin import Job
from chimpbase._app.run_handle import Handle
from chimpbase._app.run_views import HistoryEntry, Run
from chimpbase._app.runtime import Runtime
from chimpbase._app.sync import SyncCtx
from chimpbase._app.tokens import Event, Queue, Signal, Stream, Update
from chimpbase._app.wf import Child, Wf
from chimpbase._app.wf_waits import Callback
from chimpbase._core.cron import Cadence, every
from chimpbase._core.dead_job import DeadJob
from chimpbase._core.explanation import Explanation
from chimpbase._core.limits import Limits, Rate
from chimpbase._core.occurrence import Occurrence
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze
from chimpbase._core.retry import Retry
from chimpbase._core.terms import EnqueueOptions
from chimpbase._core.unique import Unique

__all__ = [
    "KV",
    "App",
    "Blueprint",
    "Cadence",
    "Callback",
    "Cancel",
    "Child",
    "Collection",
    "Ctx",
    "DeadJob",
    "DeadLetter",
    "EnqueueOptions",
    "Entry",
    "Event",
    "Explanation",
    "Handle",
    "HistoryEntry",
    "Index",
    "Job",
    "JobError",
    "JobHandle",
    "JobProgress",
    "JobStatus",
    "Limits",
    "Occurrence",
    "OldRun",
    "Queue",
    "Rate",
    "Retry",
    "Run",
    "Runtime",
    "Schedule",
    "Signal",
    "Snooze",
    "Stream",
    "SyncCtx",
    "SyncJobHandle",
    "Unique",
    "Update",
    "Wf",
    "action",
    "consumer",
    "cron",
    "errors",
    "every",
    "on_broadcast",
    "step",
    "subscribe",
    "worker",
    "workflow",
]
