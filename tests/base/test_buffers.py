"""Tensors over memory that Python has filled."""

from array import array

import torch

from homer.base.buffers import longs, over


def test_whole_numbers_of_any_iterable() -> None:
    assert longs(n * n for n in (3, -1, 1 << 31)).tolist() == [9, 1, 1 << 62]
    assert torch.equal(longs([]), torch.zeros(0, dtype=torch.long))


def test_a_buffer_is_not_copied() -> None:
    numbers = array("i", [1, 2])
    tensor = over(numbers, torch.int32)
    numbers[0] = 5
    assert tensor.tolist() == [5, 2]
    assert over(bytearray(), torch.uint8).shape == (0,)
