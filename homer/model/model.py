"""HomerModel: a language model that answers from more than its window holds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from homer.backends.pausing import Turn as Share
from homer.backends.pausing import pausing
from homer.calibrating.on_demand import remembered
from homer.config import HomerConfig
from homer.generation.answer_stream import AnswerStream
from homer.merging.cache import CompactCache
from homer.merging.node import Watcher
from homer.model.citing import CitingModel
from homer.model.structured import Turn, held_to, make_turn, told_of_schema, with_parsed
from homer.model.warming import warm_up
from homer.reuse.encoded import EncodedContext
from homer.reuse.store import StateStore
from homer.significance.calibration import Calibration
from homer.text.conversation import Limits, build_conversation
from homer.text.documents import DocumentLike
from homer.text.prompt import Prompt
from homer.text.template import Message
from homer.view.answer import Answer


class HomerModel(CitingModel):
    """A loaded causal language model, its tokenizer, and how contexts are compressed for it.

    The model given is not changed, and all methods may be called from several threads at once.

    Args:
        model: a transformers model; see UnsupportedModelError for what cannot work.
        tokenizer: its tokenizer; not needed where only token ids are used.
        config: None derives everything from the model.
        calibration: a path, a tensor (layers, distances), or a Calibration. None: the heads that find what a question
            asks for are measured when first needed, and kept in the user's cache folder. False: never; the
            significance is then the paper's.
        fast: run the layers of common families (Llama, Mistral, Qwen2, Qwen3) by fused kernels. None: on a GPU,
            where the model allows it. False: always by the model's own code. True: or an error that says why not.
            "fp8": the products of long chunks in 8-bit floats as well, for cards that have them; tokens may differ.
        devices: several, [0, 1] or "auto", that read one context together; each holds the weights, its own comes first.
        chat_template_kwargs: variables of the chat template, such as enable_thinking; a call may give others.

    Raises:
        UnsupportedModelError, ConfigError, CalibrationError: saying what does not fit.
    """

    def ask(
        self,
        question: str,
        documents: Sequence[DocumentLike] | EncodedContext,
        *,
        system: str | None = None,
        schema: Any = None,
        config: HomerConfig | None = None,
        progress: bool = False,
        max_new_tokens: int | None = None,
        cite: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **generation: Any,
    ) -> Answer:
        """Answer a question from documents of any length.

        What fits the model's window is simply answered, as the plain model would. What a model thinks before it
        answers is `answer.reasoning`; max_new_tokens counts it, and a schema holds for what comes after it.

        Args:
            documents: strings, or mappings with `text`, maybe `title` and `score`; or what `encode` made of them, which
                knows its system message and settings.
            system: the system message; None for the library's own.
            schema: the text is JSON that holds to it, whatever the model, and `answer.parsed` what it says: a class of
                pydantic, a TypedDict or a JSON schema. The model reads the schema behind the system message, but not
                where documents were encoded, whose message stays. An answer cut at max_new_tokens has the
                finish_reason "length", and nothing parsed.
            config, progress: as in `compress`; max_new_tokens, generation: as in `generate`.
            cite: say of each sentence of the answer which parts of the documents it rests on, for one more pass of
                the answer's tokens.
            chat_template_kwargs: variables of the chat template, such as `{"enable_thinking": False}`, over the
                model's own.

        Raises:
            InputError: no documents, none that holds text, an empty question, or a variable nobody reads.
            GenerationError: a schema that cannot be held to; names the keyword.
        """
        encoded = documents if isinstance(documents, EncodedContext) else None
        if schema is not None:
            generation = held_to(schema, generation)
            system = told_of_schema(system, schema) if encoded is None else system
        prompt = self.build_prompt(question, documents, system=system, chat_template_kwargs=chat_template_kwargs)
        options = {"config": config, "progress": progress, "max_new_tokens": max_new_tokens, "cite": cite} | generation
        answer = self.stream_prompt(prompt, encoded=encoded, **options).answer()
        return answer if schema is None else with_parsed(answer, schema)

    def stream_prompt(
        self,
        prompt: Prompt,
        *,
        config: HomerConfig | None = None,
        progress: bool = False,
        max_new_tokens: int | None = None,
        store: StateStore | None = None,
        encoded: EncodedContext | None = None,
        cite: bool = False,
        **generation: Any,
    ) -> AnswerStream:
        """The answer to a prompt as it is generated: compressed when the first text is asked for.

        Args:
            store, encoded: as in `compress_prompt`.
            config, progress, max_new_tokens, cite, generation: as in `ask`.

        Raises:
            GenerationError, CalibrationError: as `check_prompt`.
        """
        generation = {"thinking": prompt.thinking} | generation
        options: dict[str, Any] = {"config": config, "max_new_tokens": max_new_tokens}
        options |= {"store": store, "encoded": encoded}
        sampling, others = self._streams.check(max_new_tokens, generation)
        if cite:
            self.check_cites()
        fitting = self._fitting(prompt, **options)
        if fitting is None:
            compress = functools.partial(self.compress_prompt, prompt, progress=progress, **options)
        else:  # which was settled and checked just now
            compress = functools.partial(self._compress_fitting, prompt, fitting, progress=progress)
        opened = functools.partial(self._streams.opened, sampling=sampling, others=others)
        return AnswerStream(prompt, compress, opened, self.cite if cite else None)

    def check_prompt(
        self,
        prompt: Prompt,
        *,
        config: HomerConfig | None = None,
        max_new_tokens: int | None = None,
        store: StateStore | None = None,
        encoded: EncodedContext | None = None,
        cite: bool = False,
        **generation: Any,
    ) -> None:
        """Raise now, at no cost, the GenerationError of `stream_prompt`, or the CalibrationError of `cite`."""
        self._streams.check(max_new_tokens, {"thinking": prompt.thinking} | generation)
        if cite:
            self.check_cites()
        self._fitting(prompt, config, max_new_tokens, store, encoded)

    def compress_prompt(
        self,
        prompt: Prompt,
        *,
        config: HomerConfig | None = None,
        progress: bool = False,
        max_new_tokens: int | None = None,
        watch: Watcher | None = None,
        tick: Callable[[], None] = lambda: None,
        store: StateStore | None = None,
        encoded: EncodedContext | None = None,
        turn: Share | None = None,
    ) -> CompactCache:
        """Compress a prompt; left whole where it fits the window together with max_new_tokens.

        Args:
            store: where its documents' states are looked for, and put, where it does not fit; see `encode_prompt`.
            encoded: the same prefix and context with their states, where they were encoded before.
            tick: called between layers, a few milliseconds apart on a GPU; what it raises ends the compression.
            turn: entered while this thread computes, by who shares a GPU among several prompts; not while others do,
                with which it is read.
        """
        shown: dict[str, Any] = {"progress": progress, "watch": watch}
        longest = self._settings.whole_len(config or self.config, max_new_tokens, prompt.thinking is not None)
        if store is not None and encoded is None and len(prompt) > longest:
            with pausing(tick, turn):
                encoded = self.encode_prompt(prompt, store, config=config, progress=progress)
            config = None
        if encoded is not None:
            encoded.check_settings(config=config)
            with pausing(tick, turn):
                return self.compress_encoded(encoded, prompt.suffix_ids, question_span=prompt.question_span, **shown)
        fitting = self._settings.fitting(config or self.config, prompt, max_new_tokens)
        return self._compress_fitting(prompt, fitting, tick, turn, **shown)

    def build_prompt(
        self,
        question: str,
        documents: Sequence[DocumentLike] | EncodedContext,
        *,
        system: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """The prompt that `ask` compresses, by the tokenizer's own chat template."""
        if isinstance(documents, EncodedContext):
            return self._prompt_of_encoded(question, documents, system, chat_template_kwargs)
        return self._builder("ask", chat_template_kwargs).build(question, documents, system)

    def build_chat_prompt(
        self,
        messages: Sequence[Message],
        documents: Sequence[DocumentLike] = (),
        *,
        place: str | None = None,
        documents_first: bool = False,
        config: HomerConfig | None = None,
        max_new_tokens: int | None = None,
        tick: Callable[[], None] = lambda: None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """The prompt of a conversation, by the tokenizer's own chat template.

        With documents, they stand before the question, as in `build_prompt`. Without, the prompt is the chat
        template's own, token for token, where it fits the window; of a longer one, the middle of the longest
        message is the context. Earlier turns stay whole while prefix and suffix take half of max_chunk_len at
        most; beyond that, the oldest join the context.

        Args:
            messages: mappings with `role` (system, user or assistant) and `content`; the last one is the user's. An
                assistant's `reasoning_content` is repeated where the template wants it.
            place: text that stands once in the messages, where the documents belong; None: before the question.
            documents_first: without a place, they stand before the user's first question, and turns that join the
                context behind them, so that their states can be kept from turn to turn.
            config, max_new_tokens: as `compress_prompt` will get them.
            tick: called as much text is read; what it raises ends the work.
            chat_template_kwargs: as in `ask`.

        Raises:
            InputError: messages that are no conversation, or a bad document.
        """
        builder = self._builder("chat", chat_template_kwargs, tick)
        config = config or self.config
        longest = self._settings.whole_len(config, max_new_tokens, builder.thinking is not None)
        limits = Limits(longest, self._settings.resolve(config).max_chunk_len)
        return build_conversation(builder, messages, documents, limits, place, documents_first)

    def turn(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Any = (),
        tool_choice: str | None = None,
        parallel: bool | None = None,
        schema: Any = None,
    ) -> Turn:
        """A conversation with tools, for `build_chat_prompt`, and the grammar of its next answer, for `stream_prompt`.

        `read_calls` reads the calls out of the answer, and a `CallReader` while it comes.

        Args:
            messages: as in OpenAI's endpoints; an assistant's may have `tool_calls`, a tool's result the role "tool".
            tools: as there: functions with a name, a description and the JSON schema of their parameters. The model is
                told of them by its chat template, where that knows tools, else in the system message.
            tool_choice: "none", "required", the name of one tool, or "auto", the same as None: the model answers in
                words or calls. A model whose template knows no tools was not taught when to call: it calls where the
                user, who must have spoken last, names a word of a tool's name or description.
            parallel: whether several calls may come in one answer; None: where the template knows tools.
            schema: an answer that calls nothing is JSON that holds to it; the system message says so.

        Raises:
            GenerationError: tools, a choice or a schema that cannot be held to.
            InputError: calls among the messages that are none.
        """
        return make_turn(self.require_tokenizer("call tools"), messages, tools, tool_choice, parallel, schema)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, in which nothing is a control token."""
        ids: list[int] = self._builder("tokenize").tokenize(text)[0][:, 0].tolist()
        return ids

    def measure(self) -> Calibration | None:
        """A calibration with the heads that find what is asked for, from the user's cache folder if it is there.

        None where that cannot be measured; the log says why.
        """
        return remembered(self)

    def prepare(self) -> None:
        """Do now what the first question would wait for: measure (see `measure`), and on a GPU make kernels ready."""
        self._settings.settle(self.config)
        if self.decoder.device.type == "cuda":
            warm_up(self, (self.decoder,) if self._replicas is None else self._replicas.decoders)

    def _compress_fitting(
        self,
        prompt: Prompt,
        fitting: HomerConfig,
        tick: Callable[[], None] = lambda: None,
        turn: Share | None = None,
        **shown: Any,
    ) -> CompactCache:
        """A prompt compressed by settings that fit it."""
        shown |= {"document_numbers": prompt.document_numbers, "document_ranks": prompt.document_ranks}
        with pausing(tick, turn):
            return self.compress(*prompt.parts, question_span=prompt.question_span, config=fitting, **shown)
