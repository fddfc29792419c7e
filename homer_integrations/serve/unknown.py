"""Fields of requests that this server does not know: refused by name, unless they ask for nothing."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

# What says nothing about the text: bookkeeping of other services and of clients.
NO_MATTER = frozenset(
    "metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention "
    "id chat_id session_id conversation_id thread_id message_id request_id run_id trace_id span_id user_id client_id "
    "organization_id project_id tags timestamp created created_at updated_at".split()
)


def refuse_unknown(fields: Mapping[str, Any] | None, nothing: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise ValueError for a field that is neither empty nor bookkeeping nor of a value that asks for nothing."""
    for name, value in (fields or {}).items():
        empty = value is None or value == [] or value == {}
        if not (empty or name in NO_MATTER or value in nothing.get(name, ())):
            raise ValueError(f"{name:.80}={reprlib.repr(value)} is not supported by this server: leave it out")
