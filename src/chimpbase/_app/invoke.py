"""Calls a definition's function with its ctx: awaits an async one, runs a plain one in the pool of threads.

Where the stage is synchronous there is no event loop to keep free, and a plain function runs in the caller's thread.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chimpbase._app.definitions import Definition
from chimpbase._app.stage import Stage
from chimpbase._app.sync import AsyncContext, SyncCtx
from chimpbase._app.waiter import in_place, on_loop


async def invoke(
    stage: Stage, definition: Definition, ctx: AsyncContext, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run the function. A plain function keeps its thread until it returns, even when its attempt is given up."""
    if definition.is_async:
        return await definition.function(ctx, *args, **kwargs)
    if stage.is_sync:
        return definition.function(SyncCtx(ctx, in_place), *args, **kwargs)
    return await in_thread(stage, definition.function, ctx, args, kwargs)


async def in_thread(
    stage: Stage,
    function: Callable[..., Any],
    ctx: AsyncContext,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run a plain function with a ctx that blocks."""
    loop = asyncio.get_running_loop()
    sync_ctx, context = SyncCtx(ctx, on_loop(loop)), contextvars.copy_context()
    return await loop.run_in_executor(stage.threads, lambda: context.run(function, sync_ctx, *args, **kwargs))
