"""The method.

In: a plan, the ids, and a backend to run them. Out: a `CompactCache`. Read `merge` first.
"""
