"""Train the tokenizer and turn the books into token arrays: python -m training.prepare CORPUS OUT"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from random import Random

from training.facts import Facts
from training.library import read_books, tokenize, workplace_passages
from training.tokenizer import train_tokenizer


def main(corpus: Path, out: Path) -> None:
    """Write tokenizer, books.npz, held_out.npz and workplace.npz into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    books = list(read_books(corpus, held_out=False))
    passages = list(workplace_passages(seed=1, rounds=60))
    facts = Facts(Random(2))
    statements = (fact.statement for _ in range(3000) for fact in facts.draw(2))
    samples = (line for book in books for line in book.split("\n")[::6])
    tokenizer = train_tokenizer(itertools.chain(samples, passages, statements))
    tokenizer.save_pretrained(out / "tokenizer")
    tokenize(tokenizer, passages, "\n\n").save(out / "workplace.npz")
    for name, texts in (("books", books), ("held_out", list(read_books(corpus, held_out=True)))):
        arrays = tokenize(tokenizer, (p for text in texts for p in text.split("\n") if p.strip()), "\n")
        arrays.save(out / f"{name}.npz")
        print(name, len(arrays.tokens), "tokens in", len(arrays.paragraphs), "paragraphs")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
