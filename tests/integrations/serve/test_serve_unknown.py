"""Fields that the server does not know are refused by name, unless they ask for nothing."""

import pytest

from homer_integrations.serve.unknown import refuse_unknown

NOTHING = {"best_of": (1,)}


@pytest.mark.parametrize(
    "fields", [None, {}, {"x": None}, {"x": []}, {"x": {}}, {"metadata": {"a": 1}}, {"best_of": 1}]
)
def test_what_asks_for_nothing_is_taken(fields: dict[str, object] | None) -> None:
    refuse_unknown(fields, NOTHING)


@pytest.mark.parametrize("fields", [{"best_of": 2}, {"audio": "x"}, {"x": 0}, {"x": False}])
def test_what_asks_for_something_is_refused_by_name(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(fields))}=.*leave it out"):
        refuse_unknown(fields, NOTHING)
