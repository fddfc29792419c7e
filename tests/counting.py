"""Operations counted, not seconds: what a computation costs, the same on every machine however busy it is."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts the lines of the library that run, the characters its strings are searched for, and tensors' elements."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        alias = func._schema.returns[0].alias_info if func._schema.returns else None
        if alias is not None and not alias.is_write:  # a view
            self.count += 1
            return result
        read = [*args[1], result] if func is torch.ops.aten.index.Tensor else [*args, result]
        self.count += sum(t.numel() for t in read if isinstance(t, torch.Tensor))
        return result

    def of(self, work: Callable[[], Any]) -> Any:
        before = sys.gettrace(), sys.getprofile()
        sys.setprofile(self._called)
        sys.settrace(self._entered)
        try:
            with self:
                return work()
        finally:
            sys.settrace(before[0])
            sys.setprofile(before[1])

    def _entered(self, frame: Any, event: str, arg: Any) -> Any:
        return self._line if "/homer/" in frame.f_code.co_filename else None

    def _line(self, frame: Any, event: str, arg: Any) -> Any:
        self.count += 1
        return self._line

    def _called(self, frame: Any, event: str, arg: Any) -> None:
        if event == "c_call" and "/homer/" in frame.f_code.co_filename:
            owner = getattr(arg, "__self__", None)
            self.count += len(owner) if isinstance(owner, str) else 1


def growth(work: Callable[[int], Callable[[], Any]], size: int) -> float:
    """How many times as many operations `work(2 * size)()` takes as `work(size)()`; making the work is not counted."""
    small, large = Operations(), Operations()
    small.of(work(size))
    large.of(work(2 * size))
    return large.count / small.count
