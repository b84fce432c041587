"""Divergence: whether what a run's code asks for fits what its journal holds. Pure judgements; no I/O.

Adding, removing and reordering steps of different names is fine. What is not: other arguments for a step that was done,
a step under a new name, and code that takes another way though it was not changed. Each would do a second time what was
done already, so the run stops instead, and the message says how to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

import msgspec

from chimpbase._core.errors import NondeterministicWorkflow
from chimpbase._core.values import StepKind, StepMemo

_SHORT = 2000
_ACTS: frozenset[StepKind] = frozenset({"step", "child", "callback"})


class Arguments(msgspec.Struct, frozen=True, gc=False):
    """What a step is called with: a hash of it, and the JSON text itself when that is short."""

    digest: int
    text: str | None


def arguments(text: str) -> Arguments:
    """The arguments given as JSON text."""
    digest = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), signed=True)
    return Arguments(digest, text if len(text) <= _SHORT else None)


def scope_of(key: str) -> str:
    """The scope in which a key stands, such as `t1/`."""
    return key[: key.rfind("/", 0, key.rfind("#")) + 1]


def name_of(key: str) -> str:
    """The name in a key: `charge` of `t1/charge#2`."""
    return key[len(scope_of(key)) : key.rfind("#")]


def by_scope(memos: Iterable[StepMemo]) -> dict[str, dict[str, StepMemo]]:
    """What was done, by scope and key, in its order; waits and timers left out."""
    found: dict[str, dict[str, StepMemo]] = {}
    for memo in memos:
        if memo.kind in _ACTS:
            found.setdefault(scope_of(memo.key), {})[memo.key] = memo
    return found


def changed(key: str, memo: StepMemo, kind: StepKind, given: Arguments | None) -> NondeterministicWorkflow | None:
    """Whether a memo is of another kind, or was made with other arguments."""
    if memo.kind not in (kind, "retry", "cancelled"):
        message = f"{key} is a {memo.kind} in the journal and a {kind} in the code. Give one of them another name."
        return NondeterministicWorkflow(message, expected=f"{memo.kind} {key}", found=f"{kind} {key}")
    if given is None or memo.digest is None or given.digest == memo.digest:
        return None
    was, now = memo.detail or "other arguments", given.text or "these arguments"
    return NondeterministicWorkflow(
        f"{key} was done with {was:.300}, and the code now calls it with {now:.300}. Call it as before, or give the "
        "new call another name.",
        expected=f"{key} {was}",
        found=f"{key} {now}",
    )


def added(
    key: str,
    given: Arguments | None,
    left: dict[str, StepMemo],
    *,
    same_code: bool,
    knows: Callable[[str], bool],
) -> NondeterministicWorkflow | None:
    """Whether a step that the journal does not hold is one that it holds (in `left`) under another name.

    `same_code` tells that the code is the one that wrote the journal; `knows` whether it still has a step of a name.
    """
    if same_code:
        first = min(left.values(), key=lambda memo: memo.seq).key
        return NondeterministicWorkflow(
            f"The journal goes on with {first}, and the unchanged code asks for {key}: it decides by something that is "
            "not in the journal. Decide by results of steps, wf.now() or wf.random().",
            expected=first,
            found=key,
        )
    for old in left.values():
        if given is not None and old.digest == given.digest and not knows(name_of(old.key)):
            name = name_of(old.key)
            return NondeterministicWorkflow(
                f"{old.key} was done with the same arguments as {key} is asked for now, and the code has no step "
                f"{name!r} any more. If it was renamed: @step(was={name!r}). If {key} is new: put it behind "
                'wf.patched("...").',
                expected=old.key,
                found=key,
            )
    return None
