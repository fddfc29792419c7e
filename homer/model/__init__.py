"""HomerModel: all of the above, held together.

In: a transformers model, a question, documents. Out: an `Answer`. Read `model` first, then what it stands on:
`contexts` (encoded once) and `tokens` (ids only).
"""

from homer.model.model import HomerModel

__all__ = ["HomerModel"]
