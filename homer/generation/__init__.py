"""From a compact cache to an answer.

In: a `CompactCache`. Out: tokens, text as it comes, and an `Answer` with its sources. Read `loop` first.
"""

from typing import TYPE_CHECKING

from homer.base.moved import old_names

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
