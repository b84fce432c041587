"""`chimpbase version`."""

from __future__ import annotations

import platform

from chimpbase._app.admin import version as package_version


def version() -> int:
    """Print the version of chimpbase and of what it runs on."""
    print(
        f"chimpbase {package_version()}  Python {platform.python_version()}  {platform.system()} {platform.machine()}"
    )
    return 0
