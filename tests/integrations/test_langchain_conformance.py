"""The whole of langchain-tests' suites for chat models, on the small model. No test is overridden."""

from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from homer.backends.loading import MINI
from homer_integrations.langchain import ChatHomer


class _Flags:
    @property
    def chat_model_class(self) -> type[ChatHomer]:
        return ChatHomer

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "mini", "max_tokens": 24}

    @property
    def has_tool_calling(self) -> bool:  # bind_tools is there to refuse with a reason
        return False

    @property
    def has_structured_output(self) -> bool:  # likewise
        return False

    @property
    def model_override_value(self) -> str:
        return str(MINI)


class TestUnit(_Flags, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "mini"}


class TestIntegration(_Flags, ChatModelIntegrationTests):
    pass


def test_nothing_is_overridden() -> None:
    for ours, suite in ((TestUnit, ChatModelUnitTests), (TestIntegration, ChatModelIntegrationTests)):
        tests = [name for name in dir(suite) if name.startswith("test_")]
        assert len(tests) > 8
        for name in tests:
            assert getattr(ours, name) is getattr(suite, name)


def test_what_the_flags_leave_out_is_refused_with_a_reason() -> None:
    model = ChatHomer()
    with pytest.raises(NotImplementedError, match="does not call tools yet"):
        model.bind_tools([])
    with pytest.raises(NotImplementedError, match="does not hold to a schema yet"):
        model.with_structured_output(dict)
    with pytest.raises(NotImplementedError, match="does not call tools yet"):
        model.invoke("Hello", tools=[{"name": "search"}])
