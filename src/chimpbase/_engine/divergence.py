"""Divergence: whether what a run's code asks for fits what its journal holds. Pure judgements; no I/O.

Adding, removing and reordering steps of different names is fine. What is not: other arguments for a step that was done,
a step under a new name, and code that takes another way though it was not changed. Each would do a second time what was
done already, so the run stops instead, and the message says how to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
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
        if memo.kind in _ACTS and not _is_reply(memo.key):
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


def mentions(names: AbstractSet[str], name: str) -> bool:
    """Whether code whose short texts and steps are `names` may have a step of that name, or one made like it."""
    plain = name.removeprefix("start:").removeprefix("callback:")
    return name in names or plain in names or any(_is_part(part, plain) for part in names)


def added(
    key: str,
    given: Arguments | None,
    left: dict[str, StepMemo],
    *,
    same_code: bool,
    knows: Callable[[str], bool],
    knew: Callable[[str], bool] | None,
) -> NondeterministicWorkflow | None:
    """Whether a step that the journal does not hold may be one that it holds (in `left`) under another name.

    `same_code` tells that the code is the one that wrote the journal; `knows` whether the code has a step of a name,
    `knew` whether the one that last ran the run had. With both, only a name that came while another went is doubtful;
    when nobody knows what the old code had (None), also one that came while another was gone.
    """
    if same_code:
        first = min(left.values(), key=lambda memo: memo.seq).key
        return NondeterministicWorkflow(
            f"The journal goes on with {first}, and the unchanged code asks for {key}: it decides by something that is "
            "not in the journal. Decide by results of steps, wf.now() or wf.random().",
            expected=first,
            found=key,
        )
    if knew is not None and knew(name_of(key)):
        return None
    gone = [old for old in left.values() if not knows(name_of(old.key))]
    for old in sorted(gone, key=lambda old: (not _alike(old, given), old.seq)):
        if _alike(old, given) or knew is None or knew(name_of(old.key)):
            return _renamed(old, key, given)
    return None


def _is_part(part: str, name: str) -> bool:
    """Whether a text is what an f-string made the beginning or the end of a name of: `send-` of `send-7`."""
    if len(part) < 2:
        return False
    return (not part[-1].isalnum() and name.startswith(part)) or (not part[0].isalnum() and name.endswith(part))


def _alike(old: StepMemo, given: Arguments | None) -> bool:
    return given is not None and old.digest == given.digest


def _renamed(old: StepMemo, key: str, given: Arguments | None) -> NondeterministicWorkflow:
    name, now = name_of(old.key), given.text if given and given.text else "other arguments"
    with_what = "the same arguments as" if _alike(old, given) else f"{old.detail or 'other arguments':.200}, and"
    rest = " is asked for now" if _alike(old, given) else f" is asked for now with {now:.200}"
    return NondeterministicWorkflow(
        f"{old.key} was done with {with_what} {key}{rest}, and the code has no step {name!r} any more. If it was "
        f"renamed: @step(was={name!r}){'' if _alike(old, given) else ', and the arguments of before'}. If {key} is "
        'new: put it behind wf.patched("...").',
        expected=old.key,
        found=key,
    )


def _is_reply(key: str) -> bool:
    """The answer to an update, which the engine writes by itself."""
    return key.startswith("update#") and key.endswith("/reply#1")
