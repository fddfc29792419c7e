"""Keys and values as one value: whether they lie in one tensor or one by one, what is taken and joined is the same."""

import pytest
import torch

from homer.backends.entries import Entries, join, sources, together

AFFIX = (2, 3)


def pair(layers: int, length: int, batch: int = 1) -> tuple[Entries, Entries]:
    """The same keys and values in a stack, and one by one."""
    stacked = Entries.stacked(torch.randn(2 * layers, batch, length, 2, 4))
    return stacked, stacked.each(torch.clone)


def assert_equal(ours: Entries, plain: Entries) -> None:
    assert (len(ours), ours.length) == (len(plain), plain.length)
    for layer, expected in zip(ours, plain, strict=True):
        for a, b in zip(layer, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_a_stack_is_what_its_layers_are() -> None:
    stacked, plain = pair(3, 9, batch=2)
    assert stacked.stack is not None
    assert plain.stack is None
    assert stacked.keys[1].data_ptr() == stacked.stack[2].data_ptr()  # views
    assert stacked.nbytes == plain.nbytes == stacked.stack.nbytes
    assert_equal(stacked.row(1), plain.row(1))
    assert stacked.row(1).stack is not None
    indices = torch.tensor([0, 4, 8])
    assert_equal(stacked.row(0).take(indices), plain.row(0).take(indices))
    assert torch.equal(plain.part(1, -2).keys[2], stacked.keys[2][:, :, 1:-2])
    assert torch.equal(plain.layers(1, 3).values[0], stacked.values[1])
    assert_equal(together([plain.row(0), plain.row(1)]), plain)


def test_a_row_of_its_own_holds_no_memory_of_the_others() -> None:
    for entries in pair(3, 9, batch=2):
        own = entries.own_row(1, 7)
        assert_equal(own, entries.row(1).part(0, 7))
        assert (own.stack is None) == (entries.stack is None)
        tensor = own.keys[0] if own.stack is None else own.stack
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert tensor.is_contiguous()


def test_a_cache_gives_back_what_it_was_made_of() -> None:
    _, plain = pair(2, 5)
    assert_equal(Entries.of_cache(plain.to_cache()), plain)


@pytest.mark.parametrize("indices", [None, torch.tensor([0, 1, 3, 8, 12, 14, 15])])
@pytest.mark.parametrize("layers_above", [0, 2])
def test_a_stack_joins_as_its_layers_do(indices: torch.Tensor | None, layers_above: int) -> None:
    (left, plain_left), (right, plain_right) = pair(2, 9), pair(2, 12)
    above, plain_above = pair(layers_above, 16) if layers_above else (Entries(), Entries())
    ours = left.join(right, AFFIX, above, indices)
    plain = plain_left.join(plain_right, AFFIX, plain_above, indices)
    assert ours.stack is not None
    assert plain.stack is None
    assert_equal(ours, plain)
    assert_equal(left.join(right, AFFIX, plain_above, indices), plain)  # of both kinds


def test_nothing_joins_and_goes_below_as_nothing() -> None:
    stacked, plain = pair(2, 9)
    none = Entries()
    assert not none.join(none, AFFIX)
    assert none.join(none, AFFIX, stacked) is stacked
    for entries in (stacked, plain):
        assert_equal(none.join(none, AFFIX, entries, torch.tensor([1, 8])), entries.take(torch.tensor([1, 8])))
        assert entries.above(none) is entries
        assert none.above(entries) is entries
    assert_equal(stacked.above(stacked), plain.above(plain))
    assert len(stacked.above(plain)) == 4


def test_sources_say_of_every_token_what_join_does_with_it() -> None:
    a, b = torch.randn(8, 3), torch.randn(11, 3)
    contexts = len(a) - sum(AFFIX), len(b) - sum(AFFIX)
    left, right, share, other = sources(torch.arange(14), AFFIX, contexts)
    blended = a[left] * share[:, None] + b[right] * other[:, None]
    torch.testing.assert_close(blended, join(a, b, 0, AFFIX), rtol=0, atol=0)
    sizes = [torch.tensor([[size]]) for size in (*AFFIX, *contexts)]
    rows = sources(torch.arange(14)[None], (sizes[0], sizes[1]), (sizes[2], sizes[3]))
    assert all(torch.equal(one, row[0]) for one, row in zip((left, right, share, other), rows, strict=True))
