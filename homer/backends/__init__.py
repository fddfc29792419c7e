"""Running some of a model's layers on some of its tokens.

In: hidden states, keys and values. Out: the same, some layers further up, and what was observed on the way. The one
folder that knows how models are built. Read `reference` first; `fused` computes the same, faster.
"""
