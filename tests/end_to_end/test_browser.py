"""The page in a real Chromium: with the server behind it, and with the network inside it; its pixels are looked at."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser can be driven")

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "docs" / "images" / "astronaut.jpg"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120_000  # milliseconds
FACE, SUIT, CORNER = (0.43, 0.22), (0.4, 0.75), (0.03, 0.03)  # of the photograph: (x, y), shares
GREEN = (32, 192, 64)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        # no sandbox: tests also run as root, where Chromium has none; the pages are ours
        flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must ask no other host and must raise no error."""
    tab = browser.new_page(viewport={"width": 1100, "height": 900})
    tab.set_default_timeout(PATIENCE)
    asked: list[str] = []
    wrong: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None)
    yield tab
    tab.close()
    assert [url for url in asked if not re.match(r"(blob:)?http://127\.0\.0\.1:\d+/|data:", url)] == []
    assert wrong == []


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of `segmentarium serve`, as a user starts it."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segmentarium[web]'")
    command = [sys.executable, "-m", "segmentarium", "serve", "--port", "0", "--models", "person,street"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            address = re.match(r"(http://127\.0\.0\.1:\d+)/", first)
            assert address, first
            wait_for(address[1])
            yield address[1]
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a plain file server on the folder that `segmentarium export-web` writes."""
    from segmentarium.cli.main import main
    from segmentarium.files import cache_folder
    from segmentarium.web.offline import RUNTIME, runtime_files

    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt-get install chromium)")
    if not all((cache_folder() / "onnxruntime-web" / "dist" / name).is_file() for name in RUNTIME):
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed: ONNX Runtime for browsers cannot be fetched")
        try:
            runtime_files()
        except RuntimeError as error:
            pytest.skip(f"ONNX Runtime for browsers cannot be fetched: {error}")
    folder = tmp_path_factory.mktemp("offline")
    assert main(["export-web", str(folder)]) == 0
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder))) as files:
        thread = threading.Thread(target=files.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{files.server_address[1]}"
        finally:
            files.shutdown()
            thread.join(10)


class Files(SimpleHTTPRequestHandler):
    """A file server that says nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def wait_for(address: str) -> None:
    import httpx

    ends = time.monotonic() + 60
    while True:
        try:
            assert httpx.get(f"{address}/healthz").json()["status"] == "ok"
            return
        except httpx.TransportError:
            assert time.monotonic() < ends, "the server does not answer"
            time.sleep(0.1)


def ready(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#status.ready")


def choose(page: Any, background: str) -> None:
    page.check(f"input[name=background][value={background}]")


def give(page: Any, file: Path) -> None:
    page.set_input_files("#file", str(file))
    page.wait_for_selector("#status.done, #status.error")
    assert "error" not in (page.get_attribute("#status", "class") or ""), page.text_content("#status")


def colour(page: Any, canvas: str, at: tuple[float, float]) -> list[int]:
    """RGBA of a canvas at (x, y), shares of its size."""
    script = """([id, x, y]) => { const c = document.getElementById(id);
        return [...c.getContext("2d").getImageData(Math.floor(x * c.width), Math.floor(y * c.height), 1, 1).data]; }"""
    return page.evaluate(script, [canvas, *at])


def downloaded(page: Any, tmp_path: Path) -> Path:
    with page.expect_download() as download:
        page.click("#save")
    target = tmp_path / download.value.suggested_filename
    download.value.save_as(target)
    return target


def near(found: Any, wanted: Any, tolerance: int = 12) -> bool:
    return bool(np.abs(np.asarray(found[:3], int) - np.asarray(wanted[:3], int)).max() <= tolerance)


def check_person_on_green(page: Any, tmp_path: Path) -> np.ndarray:
    """The person of the photograph is as it was, on canvas and in the downloaded file; the background is green."""
    for place in (FACE, SUIT):
        assert near(colour(page, "after", place), colour(page, "before", place)), place
    assert near(colour(page, "after", CORNER), GREEN, 3)
    assert not near(colour(page, "before", CORNER), GREEN, 60)
    file = downloaded(page, tmp_path)
    assert file.name == "astronaut_portrait.png"
    original, result = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (PHOTO, file))
    assert result.shape == original.shape
    height, width = result.shape[:2]
    for x, y in (FACE, SUIT):
        assert near(result[int(y * height), int(x * width)], original[int(y * height), int(x * width)])
    green = np.abs(result - GREEN).max(2) <= 3
    assert 0.2 < green.mean() < 0.7
    return green


def clip_of_the_photograph(path: Path) -> Path:
    """Twelve frames of the photograph, which moves to the right."""
    av = pytest.importorskip("av", reason="PyAV is not installed: no clip can be made")
    photo = np.asarray(Image.open(PHOTO).convert("RGB").resize((160, 160)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = 160, 160, "yuv420p"
        for i in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(photo, 2 * i, 1), format="rgb24")))
        container.mux(stream.encode())
    return path


def check_clip(page: Any, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed: no clip can be read")
    choose(page, "colour")
    give(page, clip_of_the_photograph(tmp_path / "moving.webm"))
    told = page.text_content("#status")
    assert re.search(r"Done: \d+ of 12 frames", told)
    assert "segmentarium portrait moving.webm --model person --background '#20c040'" in told
    assert colour(page, "before", SUIT)[3] == 255  # the frame itself, not a canvas that stayed empty
    assert near(colour(page, "after", SUIT), colour(page, "before", SUIT), 60)  # but for what JPEG loses, and not green
    file = downloaded(page, tmp_path)
    assert file.name == "moving_portrait.webm"
    with av.open(str(file)) as container:
        tags = container.streams.video[0].codec_context
        # what the container says, as players do: VP8's own frames always say BT.601
        colours = {"src_colorspace": tags.colorspace, "src_color_range": tags.color_range}
        frames = [frame.reformat(format="rgb24", **colours).to_ndarray() for frame in container.decode(video=0)]
    assert frames
    assert frames[-1].shape == (160, 160, 3)
    corner = frames[-1][4, 4].astype(int)
    assert np.abs(corner - GREEN).max() <= 30, corner


# the server -------------------------------------------------------------------------------------------------------------


def test_a_photo_is_uploaded_and_its_person_stands_before_green(page: Any, server: str, tmp_path: Path) -> None:
    ready(page, server)
    choose(page, "colour")
    give(page, PHOTO)
    check_person_on_green(page, tmp_path)
    page.evaluate("slider.value = 20; slider.dispatchEvent(new Event('input'))")
    assert page.evaluate("getComputedStyle(after).clipPath") == "inset(0px 0px 0px 20%)"

    choose(page, "transparent")  # the same photograph again, without another upload by hand
    page.wait_for_selector("#status.done")
    assert colour(page, "after", CORNER)[3] == 0
    assert colour(page, "after", FACE)[3] == 255
    picture = Image.open(downloaded(page, tmp_path))
    assert picture.mode == "RGBA"


def test_a_photo_may_be_dropped_and_have_a_picture_behind_it(page: Any, server: str, tmp_path: Path) -> None:
    ready(page, server)
    Image.new("RGB", (64, 48), (200, 120, 20)).save(tmp_path / "wall.png")
    page.set_input_files("#picture", str(tmp_path / "wall.png"))
    script = """async (data) => { const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer(); transfer.items.add(new File([bytes], "a.jpg", { type: "image/jpeg" }));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true })); }"""
    import base64

    page.evaluate(script, base64.b64encode(PHOTO.read_bytes()).decode())
    page.wait_for_selector("#status.done")
    assert near(colour(page, "after", CORNER), (200, 120, 20), 3)
    assert near(colour(page, "after", FACE), colour(page, "before", FACE))


def test_several_photos_a_mask_and_a_stronger_blur(page: Any, server: str, tmp_path: Path) -> None:
    ready(page, server)
    assert page.is_visible("#drop")
    assert page.is_visible("#strength")
    (tmp_path / "note.jpg").write_text("no picture")
    small = Image.open(PHOTO).convert("RGB").resize((256, 256))
    small.save(tmp_path / "first.png")
    small.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "second.png")
    page.set_input_files("#file", [str(tmp_path / name) for name in ("first.png", "note.jpg", "second.png")])
    page.wait_for_selector("#all:not([hidden])")
    assert page.locator("#list button").all_text_contents() == ["first.png", "note.jpg", "second.png"]
    assert page.locator("#list [aria-current=true]").text_content() == "first.png"
    assert page.get_by_role("button", name="failed: note.jpg").get_attribute("title")
    assert page.get_by_role("img", name="the result of first.png").is_visible()
    page.locator("#list button").nth(1).click()
    assert "not a picture" in page.text_content("#status")
    assert page.get_attribute("#status", "aria-live") == "assertive"
    page.locator("#list button").nth(2).click()
    page.wait_for_selector("#save[download='second_portrait.png']")
    with page.expect_download() as download:
        page.click("#mask")
    assert download.value.suggested_filename == "second_mask.png"
    download.value.save_as(tmp_path / "mask.png")
    mask = np.asarray(Image.open(tmp_path / "mask.png").convert("L"))
    assert mask.shape == (256, 256)
    assert mask[56, round(256 * (1 - FACE[0]))] > 250
    assert mask[8, 248] < 5
    choose(page, "transparent")
    assert not page.is_visible("#strength")


def test_the_page_opened_from_disk_says_what_to_do(browser: Any, tmp_path: Path) -> None:
    from segmentarium.web.assets import assets

    for path, (content, _) in assets("offline").items():
        (tmp_path / (path.lstrip("/") or "index.html")).write_bytes(content)
    tab = browser.new_page()
    tab.goto((tmp_path / "index.html").as_uri())
    assert tab.text_content("#status code") == "python -m http.server --bind 127.0.0.1"
    assert not tab.is_visible("#drop")
    tab.close()


def test_a_text_named_jpg_is_refused_in_words(page: Any, server: str, tmp_path: Path) -> None:
    ready(page, server)
    (tmp_path / "note.jpg").write_text("Dear all,\n" * 40)
    page.set_input_files("#file", str(tmp_path / "note.jpg"))
    page.wait_for_selector("#status.error")
    assert "not a picture" in page.text_content("#status")


def test_a_clip_becomes_webm(page: Any, server: str, tmp_path: Path) -> None:
    ready(page, server)
    check_clip(page, tmp_path)


def test_the_key_of_the_classes_in_a_picture(page: Any, server: str) -> None:
    ready(page, server)
    page.select_option("#model", "street")
    give(page, PHOTO)
    entries = page.get_by_role("list", name="Classes in the picture").get_by_role("listitem")
    assert "Building" in entries.all_text_contents()
    assert "rgb(128, 0, 0)" in page.eval_on_selector_all(
        "#legend span", "all => all.map((one) => one.style.background)"
    )
    page.select_option("#model", "person")
    page.wait_for_selector("#status.done")
    assert not page.is_visible("#legend")


def test_the_command_for_a_clip_does_what_the_page_shows(page: Any, server: str, tmp_path: Path) -> None:
    ready(page, server)
    name = """-it's $HOME "`1`".webm"""
    page.evaluate("amount.value = 4")
    give(page, clip_of_the_photograph(tmp_path / name))
    words = shlex.split(page.text_content("#status code"))
    assert words == ["segmentarium", "portrait", f"./{name}", "--model", "person", "--background", "blur:4"]


def test_the_camera_runs_until_it_is_stopped(page: Any, server: str, tmp_path: Path) -> None:
    ready(page, server)
    page.click("#camera")
    page.wait_for_selector("#status.live[aria-live=off]")  # no screen reader reads every frame's speed out
    assert page.get_by_role("img", name="the result of the camera").is_visible()
    page.click("#record")
    page.wait_for_selector("#status.recording")
    page.click("#stop")
    page.wait_for_selector("#status.done[aria-live=polite]")
    assert downloaded(page, tmp_path).read_bytes()[:4] == b"\x1a\x45\xdf\xa3"  # a Matroska header: WebM


def test_the_documentation_of_the_api(page: Any, server: str) -> None:
    page.goto(f"{server}/docs")
    page.wait_for_selector("text=POST /v1/portrait")
    assert "decoded" in page.text_content("#paths")
    page.set_viewport_size({"width": 390, "height": 844})  # a long command scrolls by itself, not with the page
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_connection_that_breaks_off_harms_nobody(server: str) -> None:
    host, port = server.removeprefix("http://").split(":")
    for _ in range(30):  # more than there are places
        with socket.create_connection((host, int(port))) as connection:
            head = "POST /v1/portrait HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000\r\n"
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nhalf".encode())
    import httpx

    ends = time.monotonic() + 20
    while httpx.get(f"{server}/healthz").json()["taken"] and time.monotonic() < ends:
        time.sleep(0.1)
    assert httpx.get(f"{server}/healthz").json()["taken"] == 0
    assert httpx.post(f"{server}/v1/segment", files={"file": PHOTO.read_bytes()}, timeout=60).status_code == 200


# without a server -------------------------------------------------------------------------------------------------------


def test_the_offline_page_cuts_out_as_the_library_does(page: Any, offline: str, tmp_path: Path) -> None:
    from segmentarium import Portrait

    asked: list[str] = []
    ready(page, offline)
    page.on("request", lambda request: asked.append(request.url))
    choose(page, "colour")
    give(page, PHOTO)
    green = check_person_on_green(page, tmp_path)
    result = Portrait(GREEN)(PHOTO)
    expected = np.abs(result.pixels.astype(int) - GREEN).max(2) <= 3
    # The page's edges are simpler than the library's: they part where the network is unsure, at the helmet and the flag.
    clear = expected | (np.asarray(result.alpha) == np.asarray(result.alpha).max())
    assert (green & expected & clear).sum() / ((green | expected) & clear).sum() > 0.93
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == []  # nothing left the browser

    choose(page, "transparent")
    page.wait_for_selector("#status.done")
    assert colour(page, "after", CORNER)[3] == 0
    assert colour(page, "after", FACE)[3] == 255
    choose(page, "blur")
    page.wait_for_selector("#status.done")
    assert near(colour(page, "after", FACE), colour(page, "before", FACE))
    blurred, original = (
        np.asarray(Image.open(path).convert("L"), float) for path in (downloaded(page, tmp_path), PHOTO)
    )
    clear = Image.open(PHOTO).convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, clear.width, clear.height // 2))
    clear.save(tmp_path / "clear.png")
    give(page, tmp_path / "clear.png")
    choose(page, "transparent")  # what is transparent already stays so
    page.wait_for_selector("#status.done")
    assert [colour(page, "after", place)[3] for place in (FACE, SUIT)] == [0, 255]
    choose(page, "colour")
    page.wait_for_selector("#status.done")
    assert near(colour(page, "after", FACE), GREEN, 3)
    assert colour(page, "after", FACE)[3] == 255
    behind = expected[:, 1:] & expected[:, :-1]
    assert np.abs(np.diff(blurred))[behind].mean() < 0.5 * np.abs(np.diff(original))[behind].mean()


def test_the_offline_page_does_clips_and_says_what_is_no_picture(page: Any, offline: str, tmp_path: Path) -> None:
    ready(page, offline)
    check_clip(page, tmp_path)
    (tmp_path / "note.jpg").write_text("Dear all")
    page.set_input_files("#file", str(tmp_path / "note.jpg"))
    page.wait_for_selector("#status.error")
    assert "not a picture" in page.text_content("#status")
