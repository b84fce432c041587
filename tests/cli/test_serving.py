"""What a process that serves does to itself."""

from __future__ import annotations

import subprocess
import sys

_SPARED = """
import gc, weakref
from chimpbase.cli.serving import spare_collections

class Ring:
    def __init__(self):
        self.own = self

spare_collections()
assert gc.get_freeze_count() > 10_000, gc.get_freeze_count()
assert gc.isenabled()
ring = weakref.ref(Ring())
gc.collect()
assert ring() is None
"""


def test_what_is_there_at_the_start_is_spared_from_collections_and_what_comes_later_is_not() -> None:
    subprocess.run([sys.executable, "-c", _SPARED], check=True, timeout=60)
