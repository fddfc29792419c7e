"""Second trees of modules over the same weights: how a model is looked at differently without being changed."""

from __future__ import annotations

import copy
import functools
from types import MethodType
from typing import Any

from torch import nn

from homer.backends.attention import watched


def share_weights(model: nn.Module) -> Any:
    """A second tree of modules with the same weights, in whose configuration the attention is a watched one."""
    configs: dict[int, Any] = {}
    twins: dict[int, nn.Module] = {}

    def watched_config(config: Any) -> Any:
        if id(config) not in configs:
            new = copy.deepcopy(config, configs)
            new._attn_implementation = watched(config._attn_implementation or "eager")
        return configs[id(config)]

    def twin(module: nn.Module) -> nn.Module:
        if id(module) not in twins:
            new = twins[id(module)] = copy_module(module)
            new.training = False  # no dropout, whatever the user's own model is in the middle of
            if hasattr(module, "config"):
                new.config = watched_config(module.config)
            new._modules = {name: child and twin(child) for name, child in module._modules.items()}
        return twins[id(module)]

    return twin(model)


def copy_module(module: nn.Module) -> Any:
    """A shallow copy with a dictionary of children of its own; accelerate's hook is bound to the copy."""
    new: Any = copy.copy(module)
    new._modules = dict(module._modules)
    forward = module.__dict__.get("forward")
    if "_old_forward" in module.__dict__ and isinstance(forward, functools.partial):
        new._old_forward = MethodType(type(module).forward, new)
        new.forward = functools.partial(forward.func, new)
    return new


def replace_module(module: nn.Module, old: nn.Module, new: nn.Module) -> Any:
    """A copy of `module` in which the descendant `old` is `new`."""
    if module is old:
        return new
    children = {name: child and replace_module(child, old, new) for name, child in module._modules.items()}
    if all(children[name] is child for name, child in module._modules.items()):
        return module
    copied = copy_module(module)
    copied._modules = children
    return copied
