"""Who may ask the server, who is not listened to, and answers that nobody reads."""

# ruff: noqa: E402 - what skips comes before the imports that need it

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

httpx = pytest.importorskip("httpx", reason="httpx is not installed: the HTTP API is not tested")
pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segmentarium[web]'")

from segmentarium.web.app import create_app
from segmentarium.web.limits import DECODER, DECODING, Limits
from tests.unit.test_web_api import PHOTO, encoded, predictor, talk


@pytest.fixture(scope="module")
def app() -> Any:
    return create_app({"person": predictor()}, Limits(pixels=1_000_000, workers=1))


def test_another_site_s_page_cannot_make_it_compute(app: Any) -> None:
    files = {"file": ("a.png", PHOTO)}
    words = {"background": "green", "views": "false"}

    def states(headers: dict[str, str]) -> int:
        return talk(
            app, lambda client: client.post("/v1/portrait", files=files, data=words, headers=headers)
        ).status_code

    assert states({"origin": "https://evil.example"}) == 403
    assert states({"origin": "null"}) == 403
    assert states({"origin": "http://127.0.0.1", "sec-fetch-site": "cross-site"}) == 403
    assert states({"origin": "http://127.0.0.1"}) == 200
    assert states({"origin": "https://proxied.example", "sec-fetch-site": "same-origin"}) == 200


async def asked_and_not_read(app: Any, data: bytes, seen: Callable[[int], None], **fields: str) -> None:
    """One portrait whose answer, once it begins, is not taken; `seen` is told its status."""
    request = httpx.Request("POST", "http://127.0.0.1/v1/portrait", files={"file": ("a.png", data)}, data=fields)
    messages = [{"type": "http.request", "body": request.read()}]

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            seen(message["status"])
            await asyncio.sleep(60 * (message["status"] == 200))

    headers = [(b"content-type", request.headers["content-type"].encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/portrait", "raw_path": b"/v1/portrait", "root_path": ""}
    scope |= {
        "scheme": "http",
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
    }
    await app(scope, receive, send)


def test_an_answer_that_nobody_reads_keeps_its_place_for_a_while() -> None:
    app = create_app({"person": predictor()}, Limits(answer_seconds=0.3))
    taken: list[int] = []
    started = time.monotonic()
    asyncio.run(asked_and_not_read(app, PHOTO, lambda status: taken.append(app.state.workshop.taken)))
    assert taken == [1]
    assert time.monotonic() - started < 50
    assert app.state.workshop.taken == 0


def test_memory_stays_below_the_stated_number_whatever_is_not_read() -> None:
    """The server's own part of it; its decoders' is kept by the system.  Twelve answers are given, none is read."""
    limits = Limits(2**20, pixels=90_000, places=3, workers=1, seconds=500, connections=1, answer_seconds=0.2)
    own = limits.memory - limits.workers * (limits.pixels * DECODING + DECODER)
    app = create_app({"person": predictor()}, limits)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise))
    found = Counter[int]()

    async def waves(count: int) -> None:
        for _ in range(count):
            asked = [
                asked_and_not_read(
                    app, data, lambda status: found.update([status]), background="transparent", views="false"
                )
                for _ in range(5)
            ]
            await asyncio.gather(*asked)

    asyncio.run(waves(1))  # what is made once, and kept
    tracemalloc.start()
    try:
        asyncio.run(waves(3))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == {200: 12, 503: 8}
    assert most < own
    assert kept < len(data)  # of nine answers


@pytest.mark.parametrize("charset", ["undefined", "punycode", "no-such-charset"])
def test_a_charset_that_is_none_is_the_client_s_fault(app: Any, charset: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="m\xff"\r\n\r\nx\r\n--x--\r\n'
    kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    answer = talk(app, lambda client: client.post("/v1/portrait", content=body, headers=kind))
    assert answer.status_code == 400, answer.text
