"""Benchmarks: what is published is what was measured, and nothing is published that was not."""

from __future__ import annotations

import subprocess
import sys

from bench.page import HERE, PAGE, PICTURES, README, load, page, readme_table, readme_with, reason_of, summaries_of
from bench.peers.environments import HERE as PEERS_HERE
from bench.peers.rotation import PEERS
from tests.house.checkout import ROOT


def test_the_page_of_results_says_what_the_results_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(load()), "run: python -m bench.page"


def test_the_table_in_the_readme_says_what_the_results_say() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == readme_with(text, readme_table(load())), "run: python -m bench.page"


def test_every_group_of_benchmarks_has_results() -> None:
    assert set(load()) == {"queue", "peers", "flat", "workflows", "state"}


def test_the_pictures_on_the_page_are_there_and_small() -> None:
    sizes = {name: (HERE / "plots" / name).stat().st_size for name in PICTURES}
    assert max(sizes.values()) < 100_000, sizes


def test_every_target_has_a_reason_should_it_be_missed() -> None:
    asked = [one.name for result in load().values() for one in summaries_of(result) if one.is_met is not None]
    assert [name for name in asked if reason_of(name) is None] == [], "write it into bench/reasons.py"


def test_every_peer_has_a_program_and_the_version_it_is_called_by_is_pinned() -> None:
    for peer in PEERS:
        assert (PEERS_HERE / peer.program).exists(), peer.name
        if peer.environment is not None:
            pinned = (PEERS_HERE / "requirements" / f"{peer.environment}.txt").read_text(encoding="utf-8").split("\n")
            wanted = [line for line in pinned if line and not line.startswith("#")]
            assert [line for line in wanted if "==" not in line] == [], peer.environment
            assert [line for line in wanted if line.endswith(f"=={peer.name.split()[1]}")], peer.name


def test_the_benchmarks_tell_what_they_can_do() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--scale" in told.stdout
    assert "queue,state,workflows,peers,flat" in told.stdout
