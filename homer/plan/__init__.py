"""Whole numbers only: nothing here needs torch.

In: the lengths of prefix, context and suffix, and a configuration. Out: a `MergePlan`, which says which tokens, which
layers and how many survivors every chunk has. Read `schedule` first.
"""
