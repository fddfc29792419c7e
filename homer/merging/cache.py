"""CompactCache: what compression gives; keys and values of the survivors, ready to be continued."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache

from homer.backends.entries import Entries
from homer.base.tensorfile import read_tensors, write_tensors
from homer.base.version import __version__
from homer.config import HomerConfig, ResolvedConfig
from homer.errors import CacheError
from homer.merging.node import Compressed
from homer.plan.schedule import MergePlan, plan_for

_FORMAT = 2  # since then the checksum covers the metadata as well
_ROWS = ("position_ids", "kept_tokens", "token_ids", "relevance", "logits")
_NUMBERS = ("input_tokens", "prefix_len", "suffix_len", "model", "fingerprint")


@dataclasses.dataclass(frozen=True)
class CompactCache:
    """Keys and values of the tokens that survived; the same tokens in every layer. Immutable.

    Attributes:
        entries: keys and values of every layer, in a batch of one.
        position_ids: (1, kept), RoPE positions; they repeat where chunks were merged.
        kept_tokens: (kept,), where each token stood in prefix + context + suffix.
        token_ids: (1, kept), the tokens themselves.
        relevance: (kept,), attention of the last prompt token, averaged over heads and upper layers.
        logits: (1, vocabulary), float32, of the next token.
        input_tokens: tokens before compression.
        prefix_len, suffix_len: affix tokens, all of which were kept.
        model, fingerprint: the name and the digest of the model that made it.
        config: the settings that made it.
        survived: (input_tokens,), int8: how many levels of the tree each token of the input came through;
            the survivors came through all of them. None in a file of a version that did not note it.
        document_lens: tokens of every document, where leaves ended with documents.
        cached_tokens: tokens of the input whose states had been kept from before.
        heads: (layer, head) of those through which the question was looked from; none for other significances.
    """

    entries: Entries
    position_ids: Tensor
    kept_tokens: Tensor
    token_ids: Tensor
    relevance: Tensor
    logits: Tensor
    input_tokens: int
    prefix_len: int
    suffix_len: int
    model: str
    fingerprint: str
    config: HomerConfig
    survived: Tensor | None = None
    document_lens: tuple[int, ...] | None = None
    cached_tokens: int = 0
    heads: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return int(self.kept_tokens.shape[0])

    @property
    def keys(self) -> tuple[Tensor, ...]:
        """One (1, key heads, kept, head dim) tensor a layer, on that layer's device."""
        return self.entries.keys

    @property
    def values(self) -> tuple[Tensor, ...]:
        """As `keys`."""
        return self.entries.values

    @property
    def next_position(self) -> int:
        """Position id of the first new token; less than the number of kept tokens where chunks were merged."""
        return int(self.position_ids[0, -1]) + 1

    @property
    def plan(self) -> MergePlan:
        """The schedule by which it was made."""
        config = ResolvedConfig(**self.config.to_dict())
        context_len = self.input_tokens - self.prefix_len - self.suffix_len
        lengths = self.prefix_len, context_len, self.suffix_len
        return plan_for(config, len(self.entries), lengths, self.document_lens)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return self.entries.nbytes

    def to_dynamic_cache(self, batch_size: int = 1, end: int | None = None) -> DynamicCache:
        """A new transformers cache with these keys and values, which a model may grow at will.

        Args:
            batch_size: how many times to repeat it, for beams.
            end: stop before this token, as in a slice.
        """
        return self.entries.part(0, end).each(lambda t: t.repeat_interleave(batch_size, 0)).to_cache()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, with what made it as JSON metadata; never half a file.

        Raises:
            CacheError: it cannot be written.
        """
        try:
            write_tensors(Path(path), self._tensors(), {"homer": json.dumps(self._metadata())})
        except OSError as error:
            raise CacheError(
                f"{self.nbytes:,} bytes cannot be written to {path} ({error.strerror}): give a file in a folder that "
                f"is there and has room"
            ) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> CompactCache:
        """Read what `save` wrote, onto one device; the file is done with then.

        Raises:
            CacheError: no such file, a damaged one, or one of another format.
        """
        path = Path(path)
        try:
            metadata, tensors = read_tensors(path)
        except FileNotFoundError:
            raise CacheError(f"no compact cache at {path}: check the path, or compress and save it again") from None
        except OSError as error:
            raise CacheError(f"{path} cannot be read ({error.strerror}): give a file that you may read") from None
        except ValueError as error:
            raise CacheError(
                f"{path} is no compact cache, or not as it was saved: {error}; compress and save it again"
            ) from None
        try:
            facts = json.loads(metadata["homer"])
            return cls._from_file(path, facts, {name: tensor.to(device) for name, tensor in tensors.items()})
        except CacheError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise CacheError(f"{path} is no compact cache ({error!r}): give one that CompactCache.save wrote") from None

    @classmethod
    def _from_file(cls, path: Path, facts: dict[str, Any], tensors: dict[str, Tensor]) -> CompactCache:
        if facts.get("format") != _FORMAT:
            raise CacheError(
                f"{path} has format {facts.get('format')}, this version reads {_FORMAT}: compress and save it again"
            )
        keys, values = (tuple(tensors[f"{side}.{i}"] for i in range(facts["layers"])) for side in ("key", "value"))
        plain: dict[str, Any] = {name: tensors[name] for name in _ROWS} | {name: facts[name] for name in _NUMBERS}
        return cls(
            entries=Entries(keys, values),
            config=HomerConfig.from_dict(facts["config"]),
            survived=tensors.get("survived"),
            document_lens=tuple(lens) if (lens := facts.get("document_lens")) else None,
            heads=tuple((int(layer), int(head)) for layer, head in facts.get("heads", ())),
            **plain,
        )

    def check_made_by(self, fingerprint: str, model: str) -> None:
        """Raise CacheError unless the model with this digest made the cache."""
        if fingerprint != self.fingerprint:
            raise CacheError(
                f"this compact cache was made by {self.model} ({self.fingerprint[:8]}), not by {model} "
                f"({fingerprint[:8]}): weights, dtype and RoPE settings must be the same; compress with this model"
            )

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {name: getattr(self, name) for name in _ROWS}
        if self.survived is not None:
            tensors["survived"] = self.survived
        for i, (key, value) in enumerate(self.entries):
            tensors[f"key.{i}"], tensors[f"value.{i}"] = key, value
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def _metadata(self) -> dict[str, Any]:
        versions = {
            "homer": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        }
        facts = {name: getattr(self, name) for name in _NUMBERS}
        return facts | {
            "format": _FORMAT, "layers": len(self.entries), "config": self.config.to_dict(), "versions": versions,
            "document_lens": self.document_lens, "heads": self.heads,
        }  # fmt: skip


def compact_cache(
    result: Compressed, plan: MergePlan, ids: Tensor, config: ResolvedConfig, **facts: Any
) -> CompactCache:
    """The compact cache of ids (length,) that were compressed by a plan.

    Args:
        facts: model, fingerprint, document_lens and heads, as in CompactCache.
    """
    chunk = result.chunk
    return CompactCache(
        entries=chunk.entries,
        position_ids=chunk.position_ids,
        kept_tokens=chunk.tokens,
        token_ids=ids[chunk.tokens.cpu()][None],
        relevance=result.relevance.cpu(),
        logits=result.logits,
        input_tokens=len(ids),
        prefix_len=plan.prefix_len,
        suffix_len=plan.suffix_len,
        config=HomerConfig(**config.to_dict()),
        survived=result.survived,
        **facts,
    )
