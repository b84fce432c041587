"""The report: parts make a whole, what is wrong and what is late is said, and a page keeps what is around the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.__main__ import _arguments, plan
from tests.faults.battle import Result
from tests.faults.page import write_between
from tests.faults.report import as_short_table, as_table, joined, p99, summary_of, too_late

KILLED = Result(
    number="F1", name="kill", seed=1, jobs=2, hits={"kills": 3}, wrong=["job 1 is lost"], counts={"lost": 1}
)


def test_a_result_says_what_is_wrong_and_what_was_skipped() -> None:
    assert as_table([KILLED]).splitlines()[2] == (
        "| F1 | kill | 1 | 2 | 3 kills | 1 | 0 | 0 | 0 | - | - | 0 s | BROKEN |"
    )
    skipped = Result(number="F23", name="pooler", skipped="pgbouncer is not installed")
    assert "skipped: pgbouncer is not installed" in as_table([skipped])
    assert "| 1 · 0 · 0 · 0 |" in as_short_table([KILLED])
    assert summary_of([KILLED, skipped], 9).startswith("2 jobs, 3 kills of processes, 0 crashes of PostgreSQL, ")


def test_parts_of_a_piece_are_one_line_in_the_order_that_was_asked_for() -> None:
    parts = [Result(number="points", name="points", seed=1, done=2, of=5, hits={"kills": n}) for n in (1, 2)]
    whole = joined([*parts, KILLED], ["F1", "points"])
    assert [one.number for one in whole] == ["F1", "points"]
    assert (whole[1].done, whole[1].of, whole[1].hits) == (4, 10, {"kills": 3})
    assert whole[0].verdict == "BROKEN"


def test_what_took_longer_than_promised_is_said_of_all_together() -> None:
    in_time = Result(number="F5", name="crash", resumed_s=[0.1] * 200, taken_over_s=[1.9])
    assert too_late([in_time]) == []
    late = Result(number="F5", name="crash", resumed_s=[2.5] * 3)
    assert too_late([in_time, late]) == [
        "LATE: work resumed after the server's return within 2.50 s at the 99th percentile, 2 s are promised"
    ]
    assert p99([3.0]) == 3.0
    assert p99([*range(100)]) == 98


def test_a_page_keeps_what_stands_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- run -->\nold\n<!-- end of run -->\nafter\n")
    write_between(page, "run", "new")
    assert page.read_text() == "before\n<!-- run -->\n\nnew\n\n<!-- end of run -->\nafter\n"
    with pytest.raises(ValueError, match="has no <!-- other -->"):
        write_between(page, "other", "new")


def test_the_full_size_is_what_is_promised_and_its_pieces_are_found_once_each() -> None:
    works = plan(_arguments([]), 1)
    assert sum(work.jobs for work in works) >= 20_000
    titles = [work.title for work in works]
    assert len(titles) == len(set(titles))
    assert {"F1 1/2", "F27", "points 1/5"} <= set(titles)


def test_a_long_run_plays_every_point() -> None:
    points = [work for work in plan(_arguments(["--hours", "1"]), 1) if work.number == "points"]
    assert [work.most for work in points] == [None] * 5
