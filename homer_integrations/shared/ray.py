"""Ray, as everything here starts it."""

from __future__ import annotations

import os


def without_reports() -> None:
    """Let no Ray that is started from here on report its use to Ray's makers, unless RAY_USAGE_STATS_ENABLED says so.

    A cluster that runs already goes by what it was started with.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
