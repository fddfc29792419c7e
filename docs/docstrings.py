"""What griffe reads of docstrings: a line that tells of several names at once becomes a line for each."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SEVERAL = re.compile(r"^( +)([a-z_]\w*(?:, [a-z_]\w*)+): (.*)$", re.MULTILINE)


def apart(text: str) -> str:
    """`a, b: what they are` as two lines."""
    return _SEVERAL.sub(lambda m: "\n".join(f"{m[1]}{name}: {m[3]}" for name in m[2].split(", ")), text)


class Apart(griffe.Extension):
    """Changes every docstring as it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object with its docstring."""
        if obj.docstring is not None:
            obj.docstring.value = apart(obj.docstring.value)
