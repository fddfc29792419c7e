"""From text to tokens.

In: files, documents, a question, a conversation. Out: a `Prompt`, which is the ids of prefix, context and suffix, and
the document and the characters that every context token came from. Read `prompt` first.
"""
