"""What every request says: who asks, and how long it may take."""

import pytest
from pydantic import ValidationError

from homer_integrations.serve import ServeSettings
from homer_integrations.serve.asking import Asking


@pytest.mark.parametrize(
    ("asked", "allowed", "seconds"),
    [(None, None, None), (3.0, None, 3.0), (None, 5.0, 5.0), (3.0, 5.0, 3.0), (9.0, 5.0, 5.0)],
)
def test_the_shorter_time_holds(asked: float | None, allowed: float | None, seconds: float | None) -> None:
    assert Asking(model="m", timeout=asked).seconds(ServeSettings(timeout=allowed)) == seconds


def test_a_time_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        Asking(model="m", timeout=0)


@pytest.mark.parametrize(("user", "asker"), [("ann", "ann"), ("", "10.0.0.1"), (None, "10.0.0.1"), (7, "10.0.0.1")])
def test_who_asks_is_the_user_or_else_the_address(user: object, asker: str) -> None:
    assert Asking(model="m", user=user).asker("10.0.0.1") == asker
