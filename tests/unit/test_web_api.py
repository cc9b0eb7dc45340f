"""The HTTP API within its limits: answers, refusals, bombs, half uploads, fifty clients; and nothing of a request on the disk."""

# ruff: noqa: E402 - what skips comes before the imports that need it

from __future__ import annotations

import asyncio
import io
import struct
import threading
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segmentarium.contracts import Preprocessing

httpx = pytest.importorskip("httpx", reason="httpx is not installed: the HTTP API is not tested")
pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segmentarium[web]'")

from segmentarium.web.app import create_app
from segmentarium.web.decoding import decode
from segmentarium.web.limits import Limits, Refused
from segmentarium.web.server import allowed_hosts
from segmentarium.web.uploads import background_of
from segmentarium.web.work import SharedPredictor

RED, BLUE, GREEN = (220, 30, 30), (30, 30, 200), (0, 255, 0)


class RedIsAPerson(nn.Module):
    """Two classes; who is red is a person."""

    in_channels, num_classes = 3, 2
    classes, palette = ("background", "person"), ((0, 0, 0), (255, 0, 0))
    preprocessing = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(40.0))

    def forward(self, image: Tensor) -> Tensor:
        score = self.scale * (image[:, :1] - image[:, 2:] - 0.3)
        return torch.cat((-score, score), 1)


class Held(RedIsAPerson):
    """The same, which waits until it is let go."""

    gate = threading.Event()
    begun = threading.Event()

    def forward(self, image: Tensor) -> Tensor:
        type(self).begun.set()
        assert type(self).gate.wait(30)
        return super().forward(image)


class FourClasses(RedIsAPerson):
    """A model without a foreground."""

    num_classes = 4
    classes = ("a", "b", "c", "d")
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat((super().forward(image), image[:, :2] - 9), 1)


def predictor(model: nn.Module | None = None) -> SharedPredictor:
    return SharedPredictor(model or RedIsAPerson())


def scene(size: tuple[int, int] = (96, 64), person: tuple[int, int, int] = RED) -> Image.Image:
    """A red block in the middle of blue; (width, height)."""
    picture = Image.new("RGB", size, BLUE)
    picture.paste(person, (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


PHOTO = encoded(scene())
Talk = Callable[["httpx.AsyncClient"], Awaitable[Any]]


def talk(app: Any, conversation: Talk) -> Any:
    """Runs `conversation(client)` with a client of the application."""

    async def run() -> Any:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
            return await conversation(client)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def app() -> Any:
    limits = Limits(upload_bytes=300_000, pixels=1_000_000, places=8, workers=2)
    return create_app({"person": predictor(), "street": predictor(FourClasses())}, limits)


def post(app: Any, path: str = "/v1/portrait", data: bytes = PHOTO, /, **fields: Any) -> Any:
    files = {"file": ("photo.jpg", data, "image/jpeg")}
    files |= {name: ("b.png", value) for name, value in fields.items() if isinstance(value, bytes)}
    words = {name: value for name, value in fields.items() if isinstance(value, str)}
    return talk(app, lambda client: client.post(path, files=files, data=words))


def pixels(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def detail(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


# answers ----------------------------------------------------------------------------------------------------------------


def test_a_person_stays_and_the_background_becomes_a_colour(app: Any) -> None:
    answer = post(app, background="#00ff00")
    result = pixels(answer)
    assert result.shape == (64, 96, 3)
    assert np.abs(result[32, 48].astype(int) - RED).max() <= 2
    assert tuple(result[4, 4]) == GREEN
    assert tuple(result[60, 90]) == GREEN
    assert 0.2 < float(answer.headers["x-person-share"]) < 0.3
    assert answer.headers["cache-control"] == "no-store"


def test_transparent_gives_rgba_and_hides_nothing(app: Any) -> None:
    result = pixels(post(app, background="transparent"))
    assert result.shape == (64, 96, 4)
    assert result[32, 48, 3] == 255
    assert tuple(result[4, 4]) == (0, 0, 0, 0)


def test_what_was_transparent_stays_so(app: Any) -> None:
    """As `Portrait` does it from a file; classes are found under what is transparent, too."""
    picture = scene()
    picture.putalpha(Image.fromarray(np.repeat(np.uint8([[255] * 48 + [0] * 48]), 64, 0)))
    half = encoded(picture)
    cut = pixels(post(app, "/v1/portrait", half, background="transparent"))
    assert cut[32, 40, 3] == 255
    assert not cut[:, 48:].any()
    assert tuple(pixels(post(app, "/v1/portrait", half, background="#00ff00"))[32, 56]) == GREEN
    whole = pixels(post(app, "/v1/portrait", PHOTO, background=half))
    np.testing.assert_array_equal(whole, pixels(post(app, background=PHOTO)))  # of a background the colours count
    for form in ("png", "overlay"):
        found = post(app, "/v1/segment", half, format=form)
        np.testing.assert_array_equal(pixels(found), pixels(post(app, "/v1/segment", format=form)))


def test_a_picture_may_be_the_background(app: Any) -> None:
    result = pixels(post(app, background=encoded(Image.new("RGB", (10, 10), (250, 240, 10)))))
    assert np.abs(result[4, 4].astype(int) - (250, 240, 10)).max() <= 1
    assert np.abs(result[32, 48].astype(int) - RED).max() <= 2


def test_blur_is_the_default_and_keeps_the_colours_apart(app: Any) -> None:
    result = pixels(post(app))
    assert np.abs(result[4, 4].astype(int) - BLUE).max() <= 6
    assert np.abs(result[32, 48].astype(int) - RED).max() <= 2


def test_nobody_is_an_answer_too(app: Any) -> None:
    answer = post(app, "/v1/portrait", encoded(Image.new("RGB", (40, 40), BLUE)), background="#00ff00")
    assert (pixels(answer) == GREEN).all()
    assert float(answer.headers["x-person-share"]) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (33, 47)])
def test_any_size(app: Any, size: tuple[int, int]) -> None:
    assert pixels(post(app, "/v1/portrait", encoded(Image.new("RGB", size, RED)))).shape == (*size[::-1], 3)


def test_an_animation_counts_as_its_first_frame(app: Any) -> None:
    frames = [scene((40, 40)), Image.new("RGB", (40, 40), RED)]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    result = pixels(post(app, "/v1/portrait", animated, background="#00ff00"))
    assert tuple(result[2, 2]) == GREEN


def test_segment_gives_class_indices_or_words(app: Any) -> None:
    answer = post(app, "/v1/segment")
    mask = Image.open(io.BytesIO(answer.content))
    assert mask.mode == "P"
    assert np.asarray(mask)[32, 48] == 1
    assert np.asarray(mask)[2, 2] == 0
    words = post(app, "/v1/segment", format="json").json()
    assert (words["width"], words["height"], words["source"], words["model"]) == (96, 64, None, "person")
    assert [entry["name"] for entry in words["classes"]] == ["background", "person"]
    assert words["classes"][1]["share"] == pytest.approx(0.25, abs=0.02)
    answer = post(app, "/v1/segment", format="overlay")
    assert pixels(answer).shape == (64, 96, 3)
    assert answer.headers["x-classes"] == "1"  # what is behind is not painted


def test_models_health_docs_and_the_page(app: Any) -> None:
    async def conversation(client: Any) -> list[Any]:
        return [await client.get(path) for path in ("/v1/models", "/healthz", "/openapi.json", "/docs", "/")]

    models, health, schema, docs, page = talk(app, conversation)
    assert [(m["name"], m["portrait"]) for m in models.json()] == [("person", True), ("street", False)]
    assert health.json()["status"] == "ok"
    assert health.json()["taken"] == 0
    paths = schema.json()["paths"]
    assert set(paths) == {"/v1/portrait", "/v1/segment", "/v1/models", "/healthz"}
    body = paths["/v1/portrait"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(body["properties"]) == {"file", "background", "model", "views"}
    assert set(paths["/v1/portrait"]["post"]["responses"]) >= {"200", "400", "413", "422", "503", "504"}
    for answer in (docs, page):
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in answer.headers["content-security-policy"]


# refusals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the upload is empty"),
        (b"Dear all,\nthis is a text.\n" * 50, "the upload is not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "the upload is not a picture"),
        (PHOTO[:200], "the upload"),
        (encoded(scene((300, 300)), "JPEG")[:1500], "truncated"),
    ],
    ids=["empty", "text", "postscript", "half a png", "half a jpeg"],
)
def test_what_is_no_picture_is_refused(app: Any, data: bytes, message: str) -> None:
    assert message in detail(post(app, "/v1/portrait", data), 422)


def bomb(side: int) -> bytes:
    """A PNG of side x side pixels in a few kilobytes, whose pixels are never there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [1001, 13_000, 20_000, 2_000_000])
def test_bombs_are_refused_before_they_are_decoded(app: Any, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the background has" in detail(post(app, background=bomb(side)), 413)
    assert "the upload has" in detail(post(app, "/v1/portrait", bomb(side)), 413)

    def never(*_: Any) -> None:
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(Refused, match="more than the 1,000,000 allowed") as refused:
        decode(bomb(side), Limits(pixels=1_000_000))
    assert refused.value.status == 413


def test_too_many_bytes_are_refused_stated_or_not(app: Any) -> None:
    assert "300,000 bytes" in detail(post(app, "/v1/portrait", bytes(400_000)), 413)

    async def conversation(client: Any) -> Any:
        read = 0

        async def endless() -> Any:
            nonlocal read
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
            while read < 1_000_000:
                read += 10_000
                yield bytes(10_000)

        kind = {"content-type": "multipart/form-data; boundary=x"}
        return await client.post("/v1/portrait", content=endless(), headers=kind), read

    answer, read = talk(app, conversation)
    assert "300,000 bytes" in detail(answer, 413)
    assert read == 1_000_000  # read on, or the answer might never be seen


def test_an_upload_that_stops_half_way(app: Any) -> None:
    request = httpx.Request("POST", "http://127.0.0.1/", files={"file": ("a.png", PHOTO)})
    body, kind = request.read(), {"content-type": request.headers["content-type"]}
    answer = talk(app, lambda client: client.post("/v1/portrait", content=body[: len(body) // 2], headers=kind))
    assert "stopped half way" in detail(answer, 400)
    assert app.state.workshop.taken == 0


def test_a_client_that_goes_away_leaves_its_place(app: Any) -> None:
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": b'--x\r\nContent-Disposition: form-data; name="f', "more_body": True}]

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/portrait",
        "raw_path": b"/v1/portrait",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert app.state.workshop.taken == 0


def test_a_slow_upload_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmentarium.web.app.LINGER", 0.2)
    app = create_app({"person": predictor()}, Limits(upload_seconds=0.2))

    async def conversation(client: Any) -> Any:
        async def slow() -> Any:
            yield b"--x\r\n"
            await asyncio.sleep(20)
            yield b""

        return await client.post(
            "/v1/portrait", content=slow(), headers={"content-type": "multipart/form-data; boundary=x"}
        )

    assert "longer than 0.2 seconds" in detail(talk(app, conversation), 408)
    assert app.state.workshop.taken == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "../../etc/passwd"}, "give one of person, street"),
        ({"model": "street"}, "cannot make portraits"),
        ({"flip": "true"}, "there is no field 'flip' here"),
        ({"background": "rgb(999,0,0)"}, "give blur"),
        ({"background": "/etc/hostname"}, "background is '/etc/hostname'; give blur"),
        ({"background": "blur:99"}, "up to 20"),
        ({"background": "blur:0"}, "above 0"),
        ({"background": b"text"}, "the background is not a picture"),
        ({"views": "perhaps"}, "give one of true, false"),
    ],
)
def test_unknown_words_are_refused(app: Any, fields: dict[str, Any], message: str) -> None:
    assert message in detail(post(app, **fields), 422)


def test_a_request_needs_its_file_and_its_form(app: Any) -> None:
    missing = talk(app, lambda client: client.post("/v1/portrait", files={"photo": ("a.png", PHOTO)}))
    assert "no file named 'file'" in detail(missing, 400)
    word = talk(app, lambda client: client.post("/v1/portrait", data={"file": "a.png"}))
    assert "send multipart/form-data" in detail(word, 415)
    many = [("file", ("a.png", PHOTO))] * 3
    assert "Too many files" in detail(talk(app, lambda client: client.post("/v1/portrait", files=many)), 400)


def test_a_word_of_a_request_is_never_a_path(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    opened: list[Any] = []
    original = builtins.open
    monkeypatch.setattr(builtins, "open", lambda file, *a, **k: (opened.append(file), original(file, *a, **k))[1])
    files = {"file": ("../../../etc/secret.png", PHOTO)}
    for path in ("/v1/portrait", "/v1/segment"):
        assert talk(app, lambda client, path=path: client.post(path, files=files)).status_code == 200
    for path in ("/static/../app.py", "/..%2fapp.py", "/app.py", "/%2e%2e/%2e%2e/etc/passwd", "/docs/../../x"):
        assert talk(app, lambda client, path=path: client.get(path)).status_code == 404
    assert [file for file in opened if "secret" in str(file) or "passwd" in str(file) or "app.py" in str(file)] == []


def test_a_loopback_server_answers_to_no_other_name() -> None:
    app = create_app({"person": predictor()}, hosts=allowed_hosts("127.0.0.1"))

    async def conversation(client: Any) -> list[int]:
        names = ("127.0.0.1:8000", "localhost", "[::1]:8000", "evil.example", "", "127.0.0.1.evil.example")
        return [(await client.get("/healthz", headers={"host": name})).status_code for name in names]

    assert talk(app, conversation) == [200, 200, 200, 421, 421, 421]
    assert allowed_hosts("0.0.0.0") is None


# many at once -----------------------------------------------------------------------------------------------------------


def test_fifty_clients_get_their_own_picture_or_a_place_later() -> None:
    app = create_app({"person": predictor()}, Limits(places=12, workers=3))
    colours = [(200 + i, 20 + i % 7, 30) for i in range(50)]

    async def conversation(client: Any) -> list[Any]:
        async def one(colour: tuple[int, int, int]) -> Any:
            files = {"file": ("a.png", encoded(scene((48, 48), colour)))}
            return await client.post("/v1/portrait", files=files, data={"background": "#00ff00", "views": "false"})

        return await asyncio.gather(*(one(colour) for colour in colours))

    answers = talk(app, conversation)
    states = [answer.status_code for answer in answers]
    assert set(states) <= {200, 503}
    assert states.count(200) >= 12
    for answer, colour in zip(answers, colours, strict=True):
        if answer.status_code == 200:
            assert np.abs(pixels(answer)[24, 24].astype(int) - colour).max() <= 1
        else:
            assert int(answer.headers["retry-after"]) >= 1
            assert "12 places are taken" in answer.json()["detail"]
    assert app.state.workshop.taken == 0
    assert post(app).status_code == 200


def test_a_full_queue_and_a_late_answer() -> None:
    Held.gate.clear()
    Held.begun.clear()
    app = create_app({"person": predictor(Held())}, Limits(places=2, workers=1, seconds=0.5))
    app.state.decoders.decode(PHOTO)  # its process runs
    files = {"file": ("a.png", PHOTO)}

    async def conversation(client: Any) -> list[Any]:
        waiting = [asyncio.create_task(client.post("/v1/segment", files=files)) for _ in range(2)]
        while not Held.begun.is_set():
            await asyncio.sleep(0.01)
        return [await client.post("/v1/segment", files=files), *await asyncio.gather(*waiting)]

    full, *late = talk(app, conversation)
    assert "2 places are taken" in detail(full, 503)
    assert [detail(answer, 504).startswith("not done within 0.5 seconds") for answer in late] == [True, True]
    assert app.state.workshop.taken == 1  # the one that never began is gone, the other one still computes
    Held.gate.set()
    ends = time.monotonic() + 10
    while app.state.workshop.taken and time.monotonic() < ends:
        time.sleep(0.01)
    assert app.state.workshop.taken == 0


def test_an_error_inside_says_nothing_of_the_inside() -> None:
    class Broken(RedIsAPerson):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError("/secret/place")

    app = create_app({"person": predictor(Broken())})
    assert detail(post(app), 500) == "the picture could not be computed; the server's log says why"
    assert app.state.workshop.taken == 0


def test_a_shared_predictor_sees_what_a_plain_one_sees() -> None:
    from segmentarium.inference import Predictor

    image = np.asarray(scene((130, 70)))
    model = RedIsAPerson()
    assert np.array_equal(SharedPredictor(model)(image).mask, Predictor(model)(image).mask)


# reading ----------------------------------------------------------------------------------------------------------------


def test_backgrounds_are_words_colours_or_pictures() -> None:
    def never(data: bytes, what: str) -> Any:
        raise AssertionError

    assert background_of("blur:3.5", never).strength == 3.5  # type: ignore[union-attr]
    assert background_of("#20c040", never).rgb == (32, 192, 64)  # type: ignore[union-attr]
    for word in ("x" * 10_000, "rgb(999,0,0)", "hsv(0,500%,500%)", "blur:0"):
        with pytest.raises(Refused, match="give blur"):
            background_of(word, never)


def test_rotated_pictures_are_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(scene((90, 30)), "JPEG", exif=exif), Limits()).shape == (90, 30, 3)
