"""Rivals: what else shortens passages or ranks them, each as its own package has it, for `compressing.py`.

LLMLingua needs the package `llmlingua` and no download: the model and the tokenizer are those already loaded, and what
counts the tokens of its bill is this tokenizer in place of one from the network. The sentence-transformer is any folder
that transformers loads, such as all-MiniLM-L6-v2, by mean pooling.
"""

from __future__ import annotations

import types
import unittest.mock
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from homer import HomerModel

TOKENS = 2**12  # in a batch of passages
LONG = {  # of LongLLMLingua, as the package's own page recommends
    "rank_method": "longllmlingua",
    "condition_in_question": "after_condition",
    "reorder_context": "sort",
    "dynamic_context_compression_ratio": 0.3,
    "condition_compare": True,
    "context_budget": "+100",
}
ASKS = " We can get the answer to this question in the given documents."  # which the package puts behind the question


class Embedder:
    """Cosines of a question and passages by a sentence-transformer: the mean of the last states of 256 tokens."""

    def __init__(self, folder: str, device: str | None) -> None:
        import transformers

        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).to(device or "cpu").eval()
        self.known: dict[str, Tensor] = {}  # a passage is embedded once, as an index would

    def ranking(self, question: str, texts: Sequence[str]) -> list[int]:
        """The numbers of all texts, the nearest one first."""
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        self.known |= zip(new, self._embed(new), strict=True)
        scores = torch.stack([self.known[text] for text in texts]) @ self._embed([question])[0]
        return scores.argsort(descending=True).tolist()

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for rows in batches([len(text) // 4 for text in texts]):
            inputs = self._tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=256, return_tensors="pt"
            ).to(self._model.device)
            states, mask = self._model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
            mean = (states * mask).sum(1) / mask.sum(1)
            found |= zip(rows, torch.nn.functional.normalize(mean, dim=-1).cpu(), strict=True)
        return [found[i] for i in range(len(texts))]


class Lingua:
    """LLMLingua by a model at hand: whole passages by perplexity, then tokens.

    Args:
        model: a HomerModel, whose own transformers model is run.
        long: LongLLMLingua, which ranks passages by how likely they make the question; else the package's defaults, in
            which the question has no say.

    Passages are ranked in batches, by the same sums, which the package takes one by one.
    """

    def __init__(self, model: HomerModel, long: bool) -> None:
        import llmlingua

        def load(self: Any, *_: Any, **__: Any) -> None:
            self.model, self.tokenizer, self.device = _Legacy(model.model), model.tokenizer, model.model.device
            self.max_position_embeddings, self.context_idxs = model.model.config.max_position_embeddings, []

        counter = types.SimpleNamespace(encode=model.tokenize)
        with (
            unittest.mock.patch.object(llmlingua.PromptCompressor, "load_model", load),
            unittest.mock.patch("tiktoken.encoding_for_model", return_value=counter),
        ):
            self.package = llmlingua.PromptCompressor()
        self.package.get_rank_results = self._rank
        self._options: dict[str, Any] = LONG if long else {}
        self._plain, self._long = model.model, long
        self.known: dict[Any, float] = {}  # perplexities, by passage and question

    def shorten(self, question: str, texts: Sequence[str], budget: int) -> tuple[list[int], str]:
        """The ranking of all texts, and what is left of them."""
        found = self.package.compress_prompt(
            list(texts), question=question, target_token=budget, concate_question=False, **self._options
        )
        return self.package.context_idxs[-1], found["compressed_prompt"]

    def _rank(self, texts: Sequence[str], question: str, *_: Any) -> list[tuple[int, float]]:
        """As the package's own for both ways of it: (number, mean loss), the best one first."""
        behind = question + ASKS if self._long else ""
        new = list(dict.fromkeys(text for text in texts if (text, behind) not in self.known))
        self.known |= zip([(text, behind) for text in new], self._losses(new, behind), strict=True)
        scores = [self.known[text, behind] for text in texts]
        return sorted(enumerate(scores), key=lambda one: one[1] if self._long else -one[1])

    @torch.inference_mode()
    def _losses(self, texts: Sequence[str], behind: str) -> list[float]:
        ids = [self.package.tokenizer(text + behind).input_ids for text in texts]
        firsts = [self.package.get_token_length(text) - 1 if behind else 0 for text in texts]
        found: dict[int, float] = {}
        for rows in batches([len(row) for row in ids]):
            longest = max(len(ids[i]) for i in rows)
            padded = torch.tensor([ids[i] + [0] * (longest - len(ids[i])) for i in rows], device=self._plain.device)
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in rows]).to(padded.device)
            logits = self._plain(padded, attention_mask=mask, use_cache=False).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), padded[:, 1:], reduction="none")
            found |= {i: float(losses[row, firsts[i] : len(ids[i]) - 1].mean()) for row, i in enumerate(rows)}
        return [found[i] for i in range(len(texts))]


class _Legacy:
    """A model whose keys and values come and go as lists of pairs, one a layer, as older packages know them."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, ids: Tensor, attention_mask: Tensor, past_key_values: Any = None, use_cache: bool = True) -> Any:
        import transformers

        cache = transformers.DynamicCache()
        for layer, (key, value) in enumerate(past_key_values or ()):
            cache.update(key, value, layer)
        found = self._model(ids, attention_mask=attention_mask, past_key_values=cache, use_cache=use_cache)
        pairs = [(layer.keys, layer.values) for layer in cache.layers]
        return types.SimpleNamespace(logits=found.logits.float(), past_key_values=pairs)


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers in batches of like lengths, each of `TOKENS` at most with its padding."""
    rows: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if rows and (len(rows) + 1) * lengths[number] > TOKENS:
            yield rows
            rows = []
        rows.append(number)
    if rows:
        yield rows
