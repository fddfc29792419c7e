"""Which tokens survive; one idea a file.

In: what the layers of a chunk observed. Out: a score for every token. Read `base` first.
"""

from typing import TYPE_CHECKING

from homer.base.moved import old_names

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
