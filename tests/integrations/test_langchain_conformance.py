"""The whole of langchain-tests' suites for chat models, on the small model. Nothing is overridden."""

from typing import Any

from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from homer_integrations.langchain import ChatHomer


class _Subject:
    @property
    def chat_model_class(self) -> type[ChatHomer]:
        return ChatHomer

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "mini"}


class TestUnit(_Subject, ChatModelUnitTests):
    pass


class TestIntegration(_Subject, ChatModelIntegrationTests):
    pass


def test_nothing_is_overridden() -> None:
    for ours, suite in ((TestUnit, ChatModelUnitTests), (TestIntegration, ChatModelIntegrationTests)):
        assert len([name for name in dir(suite) if name.startswith("test_")]) > 8
        own = {name for kind in (ours, _Subject) for name in vars(kind) if not name.startswith("_")}
        assert own == {"chat_model_class", "chat_model_params"}
