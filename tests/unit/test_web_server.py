"""The server on a real socket: silence, slowness, floods of connections, answers nobody reads, the end; and its decoders."""

# ruff: noqa: E402 - what skips comes before the imports that need it

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segmentarium[web]'")
pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segmentarium[web]'")

from segmentarium.web import decoding
from segmentarium.web.connections import protocol_of
from segmentarium.web.decoding import Decoders
from segmentarium.web.limits import Limits, Refused


@contextmanager
def served(app: Any, limits: Limits) -> Iterator[tuple[str, int]]:
    """(host, port) of a server of the application in a thread."""
    settings = uvicorn.Config(app, port=0, log_level="critical", http=protocol_of(limits), timeout_graceful_shutdown=1)
    server = uvicorn.Server(settings)
    listening = settings.bind_socket()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield "127.0.0.1", listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        body = b"x" * 30_000_000 if scope["path"] == "/large" else b"hello"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


def ended(connection: socket.socket, seconds: float = 10) -> bool:
    """Whether the other side closes a connection within so many seconds."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def asked(place: tuple[str, int]) -> bytes:
    client = HTTPConnection(*place, timeout=20)
    client.request("GET", "/")
    return client.getresponse().read()


def test_silent_connections_lock_nobody_out() -> None:
    with served(hello, Limits(connections=20, head_seconds=60)) as place:
        silent = [socket.create_connection(place) for _ in range(30)]
        silent[25].sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Half: ")
        assert asked(place) == b"hello"
        assert [ended(one, 5) for one in silent[:5]] == [True] * 5  # the oldest made room
        for one in silent:
            one.close()


def test_half_a_head_and_silence_end() -> None:
    with served(hello, Limits(head_seconds=0.3)) as place:
        silent, half, second = (socket.create_connection(place) for _ in range(3))
        half.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        second.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while not answer.endswith(b"hello"):  # head and body may come one after the other
            part = second.recv(4096)
            assert part, answer
            answer += part
        second.sendall(b"GET / HT")  # the clock runs for every request
        assert [ended(one) for one in (silent, half, second)] == [True] * 3


def test_an_answer_that_nobody_reads_ends() -> None:
    with served(hello, Limits(answer_seconds=0.5)) as place:
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(place)
        reader.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(1.5)
        reader.settimeout(10)
        count = 0
        with contextlib.suppress(ConnectionResetError):
            while part := reader.recv(2**20):
                count += len(part)
        assert count < 30_000_000


END = """
import asyncio, sys, threading, time, uvicorn
from segmentarium.web.connections import EndingServer
async def app(scope, receive, send):
    if scope["type"] == "http":
        threading.Thread(target=time.sleep, args=(600,)).start()  # what cannot be stopped
        await asyncio.sleep(600)
config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=600)
listening = config.bind_socket()
config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=600)
print(listening.getsockname()[1], flush=True)
EndingServer(config, 1.0, lambda: print("decoders ended", flush=True)).run(sockets=[listening])
"""


def test_sigterm_ends_whatever_is_being_computed() -> None:
    script = END.replace("log_level", "port=0, log_level", 1)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        place = ("127.0.0.1", int(process.stdout.readline()))
        for _ in range(100):
            try:
                client = socket.create_connection(place)
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(1)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert time.monotonic() - started < 10
        assert process.stdout.read() == "decoders ended\n"


ENDED = """
import os, signal, sys, threading, time, segmentarium.web
from segmentarium.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it
def serve(*_, **__):
    threading.Thread(target=time.sleep, args=(600,)).start()  # what cannot be stopped
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    time.sleep(600)
segmentarium.web.serve = serve
main(["serve"])
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_the_command_ends_with_the_code_of_its_signal(name: str, code: int) -> None:
    """Not by another signal of its own, which managers of services take for a crash."""
    done = subprocess.run([sys.executable, "-c", ENDED, name], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr


def test_what_is_in_flight_at_the_end_is_told_so() -> None:
    from segmentarium.web.app import Guard

    async def receive() -> dict[str, str]:
        return {"type": "http.request"}

    async def cut_off(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    async def begun(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    def sent_by(app: Any) -> list[Any]:
        found: list[Any] = []

        async def send(message: Any) -> None:
            found.append(message)

        asyncio.run(Guard(app, None)({"type": "http", "method": "GET", "headers": []}, receive, send))
        return found

    start, body = sent_by(cut_off)
    assert start["status"] == 503
    assert (b"connection", b"close") in start["headers"]
    assert b"the server is being ended" in body["body"]
    (start,) = sent_by(begun)  # half an answer is no place for another
    assert start["status"] == 200


# decoders ---------------------------------------------------------------------------------------------------------------


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def scans(count: int, side: int = 512) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(Image.new("RGB", (side, side), "red"), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + data[-2:]


def tiled(tile: int) -> bytes:
    """A TIFF of 64 x 64 pixels in one tile of tile x tile."""
    values = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 277: 1, 322: tile, 323: tile, 324: 200, 325: 4096}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + struct.pack("<I", 0)
    return head.ljust(200, b"\0") + bytes(4096)


def shared_tags(count: int = 3000, size: int = 60_000) -> bytes:
    """A TIFF whose tags all name the same bytes."""
    entries = b"".join(struct.pack("<HHII", 40_000 + i, 1, size, 8) for i in range(count))
    return b"II*\0" + struct.pack("<I", size + 8) + bytes(size) + struct.pack("<H", count) + entries + bytes(4)


def split_comment() -> bytes:
    data = encoded(Image.new("P", (4, 4)), "GIF")
    start = data.index(b",", 13)
    return data[:start] + b"!\xfe" + (b"\xff" + b"x" * 255) * 5000 + b"\0" + data[start:]


BOMBS = {
    "scans": scans(300),
    "tile": tiled(30_000),
    "tags": shared_tags(),
    "tags of a photo": encoded(Image.new("RGB", (8, 8)), "JPEG", exif=b"Exif\0\0" + shared_tags(800, 40_000)),
    "segments": b"\xff\xd8" + b"\xff\xfe\0\2" * 100_000 + encoded(Image.new("RGB", (8, 8)), "JPEG")[2:],
    "chunks": encoded(Image.new("RGB", (8, 8)))[:33] + (bytes(4) + b"tExtabcd") * 50_000,
    "comment": split_comment(),
    "empty comments": b"GIF89a" + bytes(7) + b"!\xfe\0" * 50_000,
}


@pytest.mark.parametrize("kind", sorted(BOMBS))
def test_what_a_head_asks_for_is_bounded(kind: str) -> None:
    from segmentarium.data.image_io import ImageReadError, read_image

    stream = io.BytesIO(BOMBS[kind])
    stream.name = "bomb"
    started = time.process_time()
    with pytest.raises(ImageReadError, match="bomb is refused"):
        read_image(stream)
    assert time.process_time() - started < 1


def test_honest_pictures_pass() -> None:
    from segmentarium.data.image_io import read_image

    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    for data in (
        scans(20),
        encoded(photo, "JPEG", progressive=True, comment=b"x" * 60_000),
        encoded(photo, "GIF", comment=b"y" * 200_000),
        encoded(photo, "TIFF", tile=(256, 256), compression="tiff_lzw"),
        encoded(photo, "TIFF", compression="jpeg"),
        encoded(photo, "JPEG") + b"\xff\xda" * 500,  # what follows the picture is none of its scans
    ):
        assert read_image(io.BytesIO(data)).mode == "RGB"


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    pool = Decoders(Limits(pixels=1_000_000, workers=1, decode_seconds=60))
    yield pool
    pool.close()


def test_a_decoder_gives_the_pixels_or_says_why_not(decoders: Decoders) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(decoders.decode(encoded(Image.fromarray(photo))), photo)
    for data, status, words in (
        (b"", 422, "empty"),
        (BOMBS["scans"], 422, "the upload is refused: it has more than 100 scans"),
        (encoded(Image.new("1", (2000, 2000))), 413, "the upload has 2000 x 2000 pixels"),
    ):
        with pytest.raises(Refused, match=words) as refused:
            decoders.decode(data)
        assert refused.value.status == status
    assert np.array_equal(decoders.decode(encoded(Image.fromarray(photo))), photo)  # the same process goes on


def test_a_decoder_that_dies_or_hangs_is_replaced(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = encoded(Image.new("RGB", (4, 4)))
    decoders.decode(photo)
    victim = decoders._idle[0]
    victim.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(decoders, "_limits", Limits(pixels=1_000_000, workers=1, decode_seconds=0.3))
    with pytest.raises(Refused, match=r"takes longer than 0\.3 seconds"):
        decoders.decode(photo)
    assert victim.wait(5) is not None
    monkeypatch.setattr(decoders, "_limits", Limits(pixels=1_000_000, workers=1, decode_seconds=60))
    assert decoders.decode(photo).shape == (4, 4, 3)
    decoders._idle[0].kill()
    decoders._idle[0].wait(5)
    assert decoders.decode(photo).shape == (4, 4, 3)


def test_closing_ends_what_is_being_decoded() -> None:
    pool = Decoders(Limits(workers=1, decode_seconds=60))
    photo = encoded(Image.new("RGB", (4, 4)))
    pool.decode(photo)
    worker = pool._idle[0]
    worker.send_signal(signal.SIGSTOP)
    found: list[Any] = []

    def ask() -> None:
        try:
            pool.decode(photo)
        except Refused as error:
            found.append(error.status)

    thread = threading.Thread(target=ask)
    thread.start()
    while not pool._busy:
        time.sleep(0.01)
    pool.close()
    thread.join(10)
    assert found == [503]
    assert worker.poll() is not None


def test_processes_that_do_not_go_are_not_waited_for_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has its own end to keep: it waits for all of them together, however many there are."""

    class Stuck:
        stdin = stdout = None

        def kill(self) -> None:
            killed.append(self)

        def wait(self, timeout: float) -> None:
            assert len(killed) == 8
            time.sleep(timeout)
            raise subprocess.TimeoutExpired("decoder", timeout)

    killed: list[Stuck] = []
    monkeypatch.setattr(decoding, "END_SECONDS", 0.2)
    started = time.monotonic()
    decoding._end_all([Stuck() for _ in range(8)], set())  # type: ignore[misc]
    assert 0.2 <= time.monotonic() - started < 1


def test_the_memory_of_a_server_is_a_number() -> None:
    limits = Limits(upload_bytes=10, pixels=100, places=3, workers=2, connections=1)
    assert limits.memory == 3 * (400 + 2**16) + 2 * (100 * 44 + 2**28 + 2**27) + 2**17


def test_a_decoder_s_memory_is_limited(decoders: Decoders) -> None:
    decoders.decode(encoded(Image.new("RGB", (4, 4))))
    limits = Path(f"/proc/{decoders._idle[0].pid}/limits")
    if not limits.exists():
        pytest.skip("this system does not show what a process may have")
    line = next(line for line in limits.read_text().splitlines() if line.startswith("Max address space"))
    assert int(line.split()[3]) == 2**28 + 24 * 1_000_000
