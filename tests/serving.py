"""What the tests of serving share: facts, a server in a thread, and bodies."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai

from homer import read_documents
from homer.demo import DOCUMENTS
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.server import Server, make_server

FACT = "The door code for the northern archive is 48213."
QUESTION = "What is the door code for the northern archive?"
DOCUMENTS_OF_FACT = [{"title": "doors.txt", "text": FACT}]
TEXTS = [document["text"] for document in read_documents([DOCUMENTS])]
LONG = "\n\n".join(TEXTS)  # 20,000 tokens


def long_documents(characters: int) -> list[dict[str, str]]:
    """The fact behind so many characters of other text."""
    return [{"title": "other.txt", "text": LONG[:characters]}, *DOCUMENTS_OF_FACT]


def chat_body(documents: Any = None, question: str = QUESTION, **more: Any) -> dict[str, Any]:
    body = {"model": "mini", "messages": [{"role": "user", "content": question}], "max_tokens": 16}
    return body | ({"documents": documents} if documents else {}) | more


def client_of(url: str, key: str = "any") -> openai.OpenAI:
    """OpenAI's own client, which asks once."""
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


def create(client: openai.OpenAI, content: str = QUESTION, **options: Any) -> Any:
    """A chat of one message."""
    asked = [{"role": "user", "content": content}]
    return client.chat.completions.create(model="mini", messages=asked, **options)


@contextlib.contextmanager
def running(settings: ServeSettings) -> Iterator[Server]:
    """A server on a free port of this machine, in a thread."""
    server = make_server(settings, port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def wait_until(true: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.02)


def pdf_of(text: str) -> bytes:
    """A PDF of one page."""
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 400 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"xref\n0 6\n0000000000 65535 f \n{table}trailer<</Root 1 0 R/Size 6>>\nstartxref\n{len(body)}\n%%EOF"
    return (body + end).encode()
