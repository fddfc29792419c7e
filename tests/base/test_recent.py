"""What was used last stays, within a limit."""

from homer.base.recent import Recent


def test_those_used_longest_ago_leave() -> None:
    kept: Recent[str, str] = Recent(2)
    assert [kept.put(key, key.upper()) for key in "ab"] == [[], []]
    assert kept.get("a") == "A"
    assert kept.put("c", "C") == [("b", "B")]
    assert ("b" in kept, kept.get("b"), len(kept)) == (False, None, 2)
    assert kept.put("a", "again") == []
    assert (kept.get("a"), kept.held) == ("again", 2)
    kept.clear()
    assert (len(kept), kept.held, kept.get("a")) == (0, 0, None)


def test_sizes_count_and_what_is_too_large_costs_nobody_a_place() -> None:
    kept: Recent[int, bytes] = Recent(10, len)
    kept.put(1, bytes(4))
    kept.put(2, bytes(4))
    assert not kept.fits(bytes(3))
    assert kept.fits(bytes(2))
    assert kept.put(3, bytes(11)) == [(3, bytes(11))]
    assert (len(kept), kept.held) == (2, 8)
    assert kept.put(3, bytes(7)) == [(1, bytes(4)), (2, bytes(4))]
    assert kept.put(3, bytes(12)) == [(3, bytes(12))], "and what it was before is gone"
    assert (len(kept), kept.held) == (0, 0)
