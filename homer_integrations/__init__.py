"""Wrappers of homer for LangChain and LlamaIndex, a server and batches; they translate, and compute nothing."""

from importlib import import_module

_homer = import_module("homer")
# the index has another package of this name, which puts itself in its place
if "HomerModel" not in getattr(_homer, "__all__", ()):
    raise ImportError(
        f"the homer at {getattr(_homer, '__file__', None)} is another package of that name: run `pip uninstall homer`, "
        f"then `pip install --force-reinstall --no-deps homer-integrations`",
        name="homer",
    )
