"""The judge: each kind of wrong is seen, is told with its history, and nothing right is called wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.ledger import Books, ClientLog, check, read_log

ASKED = {1: ("transfer", "ok"), 2: ("plain", "ok"), 3: ("transfer", "fail"), 4: ("transfer", "unknown")}
EFFECTS = [(1, 11, 1)]
NOTES = ["begin 2 12 1", "end 2 12 1"]


def test_books_that_agree_are_in_order() -> None:
    assert check(Books(asked=ASKED, effects=EFFECTS, notes=NOTES)) == []
    assert check(Books(asked=ASKED, effects=[*EFFECTS, (4, 14, 1)], notes=NOTES)) == []
    # a plain job may be done twice, by two attempts
    assert check(Books(asked=ASKED, effects=EFFECTS, notes=[*NOTES, "begin 2 12 2", "end 2 12 2"])) == []


@pytest.mark.parametrize(
    ("books", "kind"),
    [
        (Books(asked=ASKED, notes=NOTES), "lost"),
        (Books(asked=ASKED, effects=EFFECTS), "lost"),
        (Books(asked=ASKED, effects=EFFECTS, notes=NOTES[:1]), "lost"),
        (Books(asked=ASKED, effects=EFFECTS * 2, notes=NOTES), "doubled"),
        (Books(asked=ASKED, effects=[*EFFECTS, (4, 14, 1), (4, 14, 2)], notes=NOTES), "doubled"),
        (Books(asked=ASKED, effects=[*EFFECTS, (3, 13, 1)], notes=NOTES), "false answer"),
        (Books(asked=ASKED, effects=[*EFFECTS, (9, 19, 1)], notes=NOTES), "false answer"),
        (Books(asked=ASKED, notes=NOTES, left=[(1, "job")]), "stuck"),
        (Books(asked=ASKED, effects=EFFECTS, notes=NOTES * 2), "stale"),
        (Books(asked=ASKED, effects=EFFECTS, notes=[*NOTES, "begin 2 12 2"], most_attempts=1), "attempts"),
        (Books(asked=ASKED, effects=EFFECTS, notes=NOTES, balance=1), "balance"),
        (Books(asked=ASKED, effects=EFFECTS, notes=NOTES, deadlocks=1), "deadlock"),
        (Books(asked=ASKED, effects=EFFECTS, notes=NOTES, broken=["a rule"]), "invariant"),
    ],
)
def test_each_kind_of_wrong_is_seen(books: Books, kind: str) -> None:
    assert {violation.kind for violation in check(books)} == {kind}


def test_a_violation_tells_all_that_is_written_of_its_job_and_nothing_else() -> None:
    (violation,) = check(Books(asked=ASKED, effects=[(1, 11, 1), (1, 11, 2)], notes=NOTES))
    assert str(violation).splitlines() == [
        "doubled: job 1 took effect 2 times",
        "    client: ('transfer', 'ok')",
        "    effect: job 11, attempt 1",
        "    effect: job 11, attempt 2",
    ]


def test_the_last_word_of_the_client_counts(tmp_path: Path) -> None:
    log = ClientLog(tmp_path / "log")
    log.write("invoke", [1, 2, 3], queue="plain")
    log.write("ok", [1], queue="plain")
    log.write("unknown", [2], queue="plain")
    log.close()
    assert read_log(log.path) == {1: ("plain", "ok"), 2: ("plain", "unknown"), 3: ("plain", "invoke")}
