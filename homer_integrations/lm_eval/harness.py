"""HarnessModel: what lm-evaluation-harness asks of a model, answered from compact caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from homer import CompactCache, ConfigError, HomerConfig, HomerModel, InputError
from homer_integrations.lm_eval.cutting import cut
from homer_integrations.shared.loading import shared_model

DEFAULT_NEW_TOKENS = 256
_CONFIG = tuple(field.name for field in dataclasses.fields(HomerConfig))
_OF_THE_HARNESS = ("batch_size", "max_batch_size")  # which it hands to every model
_AFFIX = 100  # tokens at both ends of a text read stretch by stretch, which stay whole, as in the paper's experiment
Read = CompactCache | int  # what was read of a text: a single token, of which there is nothing to cache, is itself
_LEAST = 4  # tokens of the shortest chunk that a HomerConfig takes
_JOINER = "\u2060"  # nothing that is seen; it parts the name of a control token in a text


class HarnessModel:
    """A HomerModel for the harness; one request after the other.

    A text that fits the window is read as the plain model reads it, token for token. Of a longer one the middle is
    compressed, for what its last lines ask.

    Args:
        pretrained: as in `HomerModel.from_pretrained`, or a HomerModel.
        max_gen_toks: tokens to generate, where a task does not say.
        device: as in `HomerModel.from_pretrained`; the harness's own "cuda:0" is the CPU where there is no GPU.
        options: fields of HomerConfig, such as target_len, and options of loading, such as dtype.

    Raises:
        ConfigError, UnsupportedModelError: as in `HomerModel.from_pretrained`.
    """

    def __init__(
        self, pretrained: Any = "mini", *, max_gen_toks: int = DEFAULT_NEW_TOKENS, device: Any = None, **options: Any
    ) -> None:
        super().__init__()
        given = {name: value for name, value in options.items() if value is not None and name not in _OF_THE_HARNESS}
        config = {name: given.pop(name) for name in _CONFIG if name in given}
        if not torch.cuda.is_available() and str(device).startswith("cuda"):
            device = None  # the harness names a GPU of its own accord
        loading = {} if isinstance(pretrained, HomerModel) or device is None else {"device": device}
        self.model = shared_model(pretrained, loading | given)
        self._config = dataclasses.replace(self.model.config, **config)
        self._tokenizer = self.model.tokenizer
        if self._tokenizer is None:
            raise ConfigError("the harness hands over text: give a model with its tokenizer")
        self._max_gen_toks, self._chat = max_gen_toks, False
        self._last: tuple[tuple[int, ...], Read] | None = None

    def loglikelihood(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation) the sum of the continuation's log-likelihoods, and whether it is greedy."""
        return [self._score(*request.args) for request in _shown(requests, disable_tqdm)]

    def loglikelihood_rolling(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[float]:
        """Of each (text,) the sum of the log-likelihoods of its tokens, each given all before it.

        Beyond half a window, a stretch of that length follows a compact cache of all text before it.
        """
        return [self._rolling(request.args[0]) for request in _shown(requests, disable_tqdm)]

    def generate_until(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each (context, options), up to the first of `until`; as the options say, else greedily."""
        return [self._generate(*request.args) for request in _shown(requests, disable_tqdm)]

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation by the tokenizer's template; the messages' text can never become a control token."""
        self._chat = True
        names = sorted(set(self._tokenizer.all_special_tokens) | set(self._tokenizer.get_added_vocab()), key=len)
        messages = [dict(message) for message in chat_history]
        for message in messages:
            for name in (name for name in reversed(names) if name.strip() and len(name) > 1):
                message["content"] = message["content"].replace(name, f"{name[0]}{_JOINER}{name[1:]}")
        text: str = self._tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's template, which the harness notes down."""
        return self._tokenizer.chat_template if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        """What tells caches of requests apart."""
        return self.model.name.replace("/", "__")

    def _ids(self, text: str, first: bool = False) -> list[int]:
        """Token ids; control tokens only by the chat template, and a BOS at the beginning where the model has one."""
        ids: list[int]
        if self._chat:
            ids = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        else:
            ids = self.model.tokenize(text) if text else []
        return self._leading(ids) if first else ids

    def _leading(self, ids: list[int]) -> list[int]:
        bos = self._tokenizer.bos_token_id
        puts = bos is not None and self._tokenizer("a").input_ids[0] == bos
        return [bos, *ids] if puts and ids[:1] != [bos] else ids

    def _pair(self, context: str, continuation: str) -> tuple[str, list[int]]:
        """The context without the white space at its end, which is the continuation's, and the continuation's ids."""
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        before = self._ids(bare[-400:])  # tokens do not reach further back than that
        return bare, self._ids(bare[-400:] + continuation)[len(before) :]

    def _score(self, context: str, continuation: str) -> tuple[float, bool]:
        context, ids = self._pair(context, continuation)
        if not ids:
            return 0.0, True
        rows = self._follow(self._read(context, len(ids)), ids)
        return float(_chosen(rows, ids).sum()), rows.argmax(-1).tolist() == ids

    def _generate(self, context: str, options: Mapping[str, Any]) -> str:
        count = int(options.get("max_gen_toks") or options.get("max_new_tokens") or self._max_gen_toks)
        until = options.get("until") or []
        stop = [until] if isinstance(until, str) else [text for text in until if text]
        chosen: dict[str, Any] = {"stop": stop} if stop else {}
        if options.get("do_sample") or float(options.get("temperature") or 0) > 0:
            chosen |= {name: options[name] for name in ("temperature", "top_p", "top_k") if options.get(name)}
        cache = self._read(context, count)
        if isinstance(cache, int):
            raise InputError("a request to generate has an empty context: give a text")
        return self.model.generate(cache, count, **chosen).text or ""

    def _rolling(self, text: str) -> float:
        ids = self._ids(text)
        lead = self._leading([]) or [self._tokenizer.eos_token_id or 0]
        half = self.model.window // 2 - len(lead)
        affix = min(_AFFIX, half // 4)
        total = 0.0
        for start in range(0, len(ids), half):
            part, before = ids[start : start + half], lead + ids[:start]
            sides = before[:affix], before[affix:-affix], before[-affix:]
            cache = self._compress(*(sides if start else ([], [], before)), room=len(part))
            total += float(_chosen(self._follow(cache, part), part).sum())
        return total

    def _read(self, text: str, room: int) -> Read:
        """The compact cache of a text after which `room` tokens may come; that of the last text is at hand."""
        whole = self._ids(text, first=True) or self._leading([]) or [self._tokenizer.eos_token_id or 0]
        fits = len(whole) + room <= self.model.window
        key = (*whole, -int(fits))
        if self._last is None or self._last[0] != key:
            sides: tuple[list[int], list[int], list[int]] = ([], [], whole)
            if not fits:
                head, middle, tail = cut(text, lambda part: len(self._ids(part)))
                sides = self._ids(head, first=True) or whole[:1], self._ids(middle), self._ids(tail)
            self._last = key, self._compress(*sides, room=room)
        return self._last[1]

    def _compress(self, head: list[int], middle: list[int], tail: list[int], room: int) -> Read:
        """The compact cache of three parts, compressed where they do not fit the window together with `room`."""
        ids, config = head + middle + tail, self._config
        if len(ids) == 1:
            return ids[0]
        if not middle or len(ids) + room <= self.model.window:
            head, middle, tail = [], ids[:-1], ids[-1:]
            length = max(_LEAST, len(ids))
            whole = {"max_chunk_len": length, "target_len": length, "max_initial_chunk_len": None}
            config = dataclasses.replace(config, **whole)  # type: ignore[arg-type]
        return self.model.compress(*(torch.tensor(part).long() for part in (head, middle, tail)), config=config)

    def _follow(self, cache: Read, ids: Sequence[int]) -> Tensor:
        """Log-probabilities (n, vocabulary) by which each of some tokens comes after what was read."""
        before = torch.tensor(list(ids[:-1])).long()
        if isinstance(cache, int):
            given = torch.cat([torch.tensor([cache]), before])[None].to(self.model.decoder.device)
            with torch.inference_mode():
                rows: Tensor = self.model.model(given).logits[0]
            return rows.float().cpu().log_softmax(-1)
        rows = cache.logits.reshape(1, -1).float().cpu()
        if len(before):
            rows = torch.cat([rows, self.model.forward(before, cache)[0].float().cpu()])
        return rows.log_softmax(-1)


def _shown(requests: Iterable[Any], hidden: bool) -> Iterable[Any]:
    return tqdm(list(requests), desc="homer", unit="request", disable=hidden)


def _chosen(rows: Tensor, ids: Sequence[int]) -> Tensor:
    """(n,) of log-probabilities (n, vocabulary) those of some tokens."""
    return rows.gather(1, torch.tensor(list(ids))[:, None])[:, 0]


def register() -> type[HarnessModel]:
    """Make the harness know the model "homer"; the class that it knows by that name.

    Raises:
        ModuleNotFoundError: no lm_eval; says how to install it.
    """
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import model_registry, register_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install homer-integrations[lm-eval]", name=error.name) from None
    import lm_eval.models  # noqa: F401  # else the harness knows no other model

    if "homer" in model_registry:
        known: type[HarnessModel] = model_registry.get("homer")
        return known
    registered: type[HarnessModel] = register_model("homer")(type("HomerLM", (HarnessModel, LM), {}))
    return registered


def main() -> None:
    """lm_eval's command line, in which "homer" is one of the models."""
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
