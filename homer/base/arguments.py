"""Arguments as users give them: checked for their kind and their range before anything is computed."""

from __future__ import annotations

import math
import numbers
import re
import reprlib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import PurePath
from typing import Any

from homer.errors import HomerError, InputError

_SURROGATES = re.compile("[\ud800-\udfff]")
_DIGITS = 200  # bits beyond which a number is not written out


def check_whole(name: str, value: Any, low: int, high: int | None = None, error: type[HomerError] = InputError) -> None:
    """Raise unless a value is a whole number from low to high; None: no end."""
    if not isinstance(value, int | numbers.Integral) or isinstance(value, bool):
        raise error(f"{name}={shown(value)} is no whole number: give one of at least {low}")
    if int(value) < low or (high is not None and int(value) > high):
        raise error(f"{name}={shown(value)} is out of range: it must be {_limits(low, high)}")


def check_real(
    name: str, value: Any, low: float, high: float | None = None, error: type[HomerError] = InputError
) -> None:
    """Raise unless a value is a finite number from low to high; None: no end."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise error(f"{name}={shown(value)} is no number: give one of at least {low}")
    number = _as_float(value)
    if not math.isfinite(number) or number < low or (high is not None and number > high):
        raise error(f"{name}={shown(value)} is out of range: it must be {_limits(low, high)}")


def check_text(name: str, value: Any) -> str:
    """A text that any encoding can hold.

    Raises:
        InputError: no string.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} is a {type(value).__name__}, not a text: give a string")
    return replace_surrogates(value)


def check_list(name: str, value: Any, of: str) -> list[Any]:
    """A list of what a user gives as several.

    Raises:
        InputError: a single one, or what cannot be gone through.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InputError(f"{name} is a single {type(value).__name__}: give a list of {of}")
    return list(value)


def replace_surrogates(text: str) -> str:
    """The text with U+FFFD for every half of a surrogate pair, which no encoding can hold; as long as before."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def as_title(value: Any) -> str | None:
    """What may name a document, as text: of a path its file name. None for what names nothing, such as NaN."""
    if isinstance(value, PathLike):
        value = PurePath(value).name
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        value = None if str(value).lower().strip("+-") in ("nan", "inf", "infinity") else str(value)
    return replace_surrogates(str(value)) if isinstance(value, str) and value.strip() else None


def shown(value: Any) -> str:
    """A value in a message, shortened."""
    if isinstance(value, int) and value.bit_length() > _DIGITS:
        return f"(a number of {value.bit_length()} bits)"
    return replace_surrogates(reprlib.repr(value))


def _as_float(value: numbers.Real) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _limits(low: float, high: float | None) -> str:
    first, last = (f"{end:g}" if isinstance(end, float) else str(end) for end in (low, high))
    return f"at least {first}" if high is None else f"between {first} and {last}"
