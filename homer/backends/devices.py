"""Replicas of one model on several devices of a host, and the threads that launch what runs there."""

from __future__ import annotations

import contextlib
import copy
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from homer.backends.architecture import not_plain, unwrapped
from homer.backends.base import Decoder
from homer.backends.fused import make_decoder
from homer.backends.options import settle_device
from homer.backends.pausing import pause
from homer.base.locks import Lock
from homer.errors import ConfigError, UnsupportedModelError

Devices = Sequence[int | str | torch.device] | str | None
T = TypeVar("T")
_MEND = "give a list such as [0, 1], or 'auto' for all GPUs of this host"
_AHEAD = 2  # calls that wait at every device, so that it never waits for the next


class Replicas:
    """Decoders of the same weights, one a device, the first of which holds what comes of it all.

    Each has a thread of its own, which stays: what it launches goes on beside what the others launch, even where it has
    to wait for its device. Any number of threads may share them.

    Args:
        threads: whether there are such threads; else every call is run where it is started.
    """

    def __init__(self, decoders: Sequence[Decoder], *, threads: bool = True) -> None:
        self.decoders, self.threads = tuple(decoders), threads
        self._lock, self._process = Lock(), 0
        self._runners: tuple[ThreadPoolExecutor, ...] = ()

    def __len__(self) -> int:
        return len(self.decoders)

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where they lie."""
        return tuple(decoder.device for decoder in self.decoders)

    def runs(self) -> Callable[[int, Callable[[], T]], Future[T]]:
        """A function that starts a call at one of the devices, by its number; calls of one device keep their order.

        They run on the streams that are the caller's own now, so that what it made before is there for them, and what
        they make is there for it.
        """
        here = _Here(self.devices)
        if not self.threads:
            return lambda number, call: _at_once(here.bound(number, call))
        runners = self._threads()
        return lambda number, call: runners[number].submit(here.bound(number, call))

    def each(self, calls: Iterable[Callable[[Decoder], T]]) -> Iterator[T]:
        """What calls give, in their order; they are dealt out to the devices in turn.

        The caller's thread may pause while they run; those of the devices do not.
        """
        start, waiting = self.runs(), deque[Future[T]]()
        try:
            for number, call in enumerate(calls):
                index = number % len(self)
                waiting.append(start(index, _with(call, self.decoders[index])))
                if len(waiting) >= _AHEAD * len(self):
                    yield _awaited(waiting.popleft())
            while waiting:
                yield _awaited(waiting.popleft())
        finally:
            settle(waiting)

    def _threads(self) -> tuple[ThreadPoolExecutor, ...]:
        with self._lock:
            if self._process != os.getpid():  # threads do not come along where a process is forked off
                names = (f"homer-{device}" for device in self.devices)
                self._runners = tuple(ThreadPoolExecutor(1, name) for name in names)
                self._process = os.getpid()
            return self._runners


def deal(calls: Iterable[Callable[[Decoder], T]], decoder: Decoder, others: Replicas | None) -> Iterator[T]:
    """What calls give, in their order: by a decoder, or by it and its copies in turn."""
    return (call(decoder) for call in calls) if others is None else others.each(calls)


def settle(running: Iterable[Future[Any]]) -> None:
    """Let go of calls that have not begun, and wait for those that have."""
    begun = [future for future in running if not future.cancel()]
    wait(begun)


def make_replicas(
    model: PreTrainedModel, decoder: Decoder, devices: Devices, fast: bool | str | None
) -> Replicas | None:
    """The decoder of a model and those of its copies on other devices; None where there is one device.

    Args:
        devices: the model's own device first, or "auto" for that and all other GPUs. One that is named twice holds
            the weights once.
        fast: as in `make_decoder`.

    Raises:
        ConfigError: devices that are not there, or of which the model's own is not the first.
        UnsupportedModelError: a model whose weights cannot be copied.
    """
    found = settle_devices(devices, decoder.device)
    if len(found) < 2:
        return None
    if found[0] != decoder.device:
        raise ConfigError(
            f"the devices begin with {found[0]}, but the model lies on {decoder.device}: name its own one first"
        )
    check_copies(model)
    return Replicas([decoder, *(make_decoder(copy_to(model, other), fast) for other in found[1:])])


def settle_devices(devices: Devices, own: torch.device | None = None) -> tuple[torch.device, ...]:
    """The devices that are named; none where none are.

    Args:
        devices: a list of numbers of GPUs, of names or of torch's devices; or a text, "auto", "0,1" or "cuda:0,cuda:1".
        own: the model's own one, which comes first where all GPUs are meant.

    Raises:
        ConfigError: what is no list of devices, or one that is not there.
    """
    if devices is None:
        return ()
    if devices == "auto":
        own = torch.device("cuda:0" if torch.cuda.is_available() else "cpu") if own is None else own
        others = (torch.device("cuda", number) for number in range(torch.cuda.device_count()))
        return (own, *(other for other in others if other != own)) if own.type == "cuda" else (own,)
    if isinstance(devices, str):  # as on a command line
        devices = [int(name) if name.strip().isdecimal() else name.strip() for name in devices.split(",")]
    if not isinstance(devices, Iterable) or isinstance(devices, Mapping):
        raise ConfigError(f"devices={devices!r} is no list: {_MEND}")
    found = tuple(_device(one) for one in devices)
    if not found:
        raise ConfigError(f"devices is empty: {_MEND}")
    return found


def _device(given: Any) -> torch.device:
    """One device with its number, where there are several of its kind."""
    number = isinstance(given, int) and not isinstance(given, bool)
    found = settle_device(f"cuda:{given}" if number else given, {})
    if found is None:
        raise ConfigError(f"devices holds None: {_MEND}")
    return torch.device("cuda", torch.cuda.current_device()) if str(found) == "cuda" else found


def first_of(devices: Devices, device: Any, options: Any) -> Any:
    """The device that a model is loaded to, of which copies go to all `devices`; `device` where there are none.

    Raises:
        ConfigError: devices that are not there, or another option beside them that says where a model lies.
    """
    found = settle_devices(devices)
    if not found:
        return device
    for name, value in (("device", device), ("device_map", options.get("device_map"))):
        if value is not None:
            raise ConfigError(
                f"devices={devices!r} and {name}={value!r} are given: leave one of them out. devices copies a model "
                f"that fits one device to each, device_map='auto' cuts one up that fits none"
            )
    if len(found) > 1 and options.get("quantization_config") is not None:
        raise UnsupportedModelError(_refusal("its weights are to be quantized"))
    return found[0]


def check_copies(model: PreTrainedModel) -> None:
    """Refuse a model that is more than plain weights on one device.

    Raises:
        UnsupportedModelError: says what it is.
    """
    kinds = {type(weight).__name__ for weight in model.parameters() if type(weight) is not nn.Parameter}
    if reason := not_plain(model):
        raise UnsupportedModelError(_refusal(reason))
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False):
        raise UnsupportedModelError(_refusal("its weights are quantized"))
    if kinds or not all(weight.is_floating_point() for weight in model.parameters()):
        raise UnsupportedModelError(_refusal(f"its weights are quantized ({', '.join(sorted(kinds)) or 'integers'})"))


def copy_to(model: PreTrainedModel, device: torch.device) -> Any:
    """A copy of a model with its weights on a device; those that are there already are shared.

    Nothing is copied where it lies first, so that the model's own device needs no room for it.
    """
    model = unwrapped(model)
    memo: dict[int, Any] = {}
    for weight in model.parameters():
        memo[id(weight)] = nn.Parameter(weight.detach().to(device), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to(device)
    return copy.deepcopy(model, memo)


def _refusal(reason: str) -> str:
    return (
        f"a copy on every one of several devices takes plain weights that fit one, and {reason}: leave devices out, "
        f"or load the model without that"
    )


class _Here:
    """What threads know of the caller's own settings: its streams, and whether it runs in inference mode."""

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._devices = tuple(devices)
        self._streams = [torch.cuda.current_stream(device) for device in devices if device.type == "cuda"]
        self._inference = torch.is_inference_mode_enabled()

    def bound(self, number: int, call: Callable[[], T]) -> Callable[[], T]:
        """A call as the caller would make it with one of the devices as its current one."""

        def run() -> T:
            with contextlib.ExitStack() as stack:
                stack.enter_context(torch.inference_mode(self._inference))
                for stream in self._streams:
                    stack.enter_context(torch.cuda.stream(stream))
                if self._devices[number].type == "cuda":
                    stack.enter_context(torch.cuda.device(self._devices[number]))
                return call()

        return run


def _awaited(future: Future[T]) -> T:
    result = future.result()
    pause()
    return result


def _at_once(call: Callable[[], T]) -> Future[T]:
    done: Future[T] = Future()
    try:
        done.set_result(call())
    except BaseException as error:
        done.set_exception(error)
    return done


def _with(call: Callable[[Decoder], T], decoder: Decoder) -> Callable[[], T]:
    return lambda: call(decoder)
