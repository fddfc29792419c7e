"""What became of every document, and its drawing.

In: a prompt and the compact cache that was made of it. Out: sources, a trace, and an HTML page. Read `sources` first.
"""
