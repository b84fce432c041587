"""Calls a definition's function with its ctx: awaits an async one, runs a plain one in the pool of threads."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chimpbase._app.backstage import Backstage
from chimpbase._app.definitions import Definition
from chimpbase._app.sync import AsyncContext, SyncCtx


async def invoke(
    backstage: Backstage, definition: Definition, ctx: AsyncContext, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run the function. A plain function keeps its thread until it returns, even when its attempt is given up."""
    if definition.is_async:
        return await definition.function(ctx, *args, **kwargs)
    return await in_thread(backstage, definition.function, ctx, args, kwargs)


async def in_thread(
    backstage: Backstage,
    function: Callable[..., Any],
    ctx: AsyncContext,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run a plain function with a ctx that blocks."""
    loop = asyncio.get_running_loop()
    sync_ctx, context = SyncCtx(ctx, loop), contextvars.copy_context()
    return await loop.run_in_executor(backstage.threads, lambda: context.run(function, sync_ctx, *args, **kwargs))
