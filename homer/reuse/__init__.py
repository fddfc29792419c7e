"""Contexts that are encoded once and asked many times.

In: documents. Out: the states of their leaves, kept in a store, from which any question goes on. Read `states` first.
"""

from typing import TYPE_CHECKING

from homer.base.moved import old_names

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
