"""`python -m chimpbase`: the command line, where no `chimpbase` script is on the PATH."""

from __future__ import annotations

from chimpbase.cli import main

if __name__ == "__main__":
    main()
