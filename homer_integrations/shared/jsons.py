"""Whether a text is JSON as a whole: lines of a batch, and answers that may have been cut."""

from __future__ import annotations

import json


def is_json(text: str | bytes) -> bool:
    """Whether it can be read; what is nested too deeply to be read is none."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
