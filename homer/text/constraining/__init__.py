"""From a schema, an expression or a grammar to the tokens that may come next.

In: a `Grammar`, and a tokenizer. Out: a mask over logits, token by token. Read `grammar` first.
"""
