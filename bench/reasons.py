"""Why a target is missed when it is, by a pattern of its name. Shown on the page beside those that are missed."""

from __future__ import annotations

_NOT_QUIET = "Not taken apart: the raw limits drifted in that round, so look at the rounds that count first."
_AMONG_PEERS = "In the same run, among the peers and in rounds that count, the same figure is higher: see below."

REASONS = {
    r"^drain no-op jobs": (
        "One process is one core of Python, and a job costs 8.3 microseconds of it: 3.9 in lane, executor, handler and "
        "finisher, 1.5 for the claim's 14 columns (the bare loop reads 4: 0.5), the rest for writing the ends."
    ),
    r"^drain: chimpbase in times of graphile": (
        "It deletes what is done, where ours keeps a day of history and fences each end, and the time of one core of "
        "Python for a job is the ceiling of a process."
    ),
    r"^transactional jobs": (
        "Begin, the update, and the end of the job with its COMMIT are a round trip each, and the Python of one job is "
        "175 microseconds (of the bare loop 125 to 150)."
    ),
    r"^enqueue_many in one call": _AMONG_PEERS,
    r"^enqueue one at a time": _AMONG_PEERS,
    r"^enqueue to start, idle, other process": (
        "A commit that is flushed to the disk, a NOTIFY on a side connection that is not, and a claim that is: two "
        "flushes, and four passes between three processes on two cores."
    ),
    r"^statements of an idle process": _NOT_QUIET,
    r"^drain with a backlog": (
        "With 2.5 million it was 0.94 when that was the largest. Of 5 million there is one round, in which the raw "
        "limits drifted; that table is about as large as the server's cache."
    ),
    r"^drain (beside|of)": _NOT_QUIET,
    r"^flow of jobs while a transaction is held open|^the same, its last third": (
        "Dead rows stay for as long as the transaction does: the claim passes them by its hint, but the pages that "
        "hold them are new ones to write."
    ),
    r"^8 processes that": (
        "Eight interpreters share two cores with the server; where they start, that is in the figure too."
    ),
    r"^start to end, .* in flight": (
        "A run is 136 to 156 microseconds of Python and as many of the server, which has the same two cores: together "
        "they bound it to some 7,000 a second. At 50 in flight each statement has few rows for its price."
    ),
    r"^signals, each": (
        "A signal wakes its run, and the run is activated anew and ends: three writes, shared by who comes at one time."
    ),
    r"^statements beside .* sleeping runs": _NOT_QUIET,
    r"^key-value (set|get)": _NOT_QUIET,
    r"schedules due at once": (
        "Every occurrence is a row of its own beside its job, and its schedule moves on in the same commit: three "
        "writes with five indexes for each."
    ),
    r"^find among .* documents": _NOT_QUIET,
}
