"""Nothing leaves the machine: a traced process that predicts on every engine asks no host and leaves nothing at home."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.inference_material import picture

ROOT = Path(__file__).resolve().parents[2]
HOOK = """
import os, sys
def hook(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "urllib.Request"):
        with open(os.environ["ASKED"], "a") as file:
            print(event, arguments[-1 if event == "socket.connect" else 0], file=file)
sys.addaudithook(hook)
"""
# Every engine, and of the verbs one of each kind: what computes, trains, scores, checks, serves, lists.
# The two calls at the end show that the watchers see what there is to see.
WORK = """
import socket, sys
import segmentarium
from segmentarium.cli.main import main
from segmentarium.export import read_metadata, to_openvino
from segmentarium.inference import Predictor
from tests.unit.inference_material import Brightness, picture
assert main(["portrait", "photo.png", "--out", "portrait.png"]) == 0
for engine in ("torch", "onnxruntime", "openvino"):
    assert Predictor(Brightness(), engine=engine)(picture()).mask.any()
assert read_metadata(to_openvino(Brightness(), "bright"))
assert Predictor("bright.xml")(picture()).mask.shape == (60, 90)
import timm, huggingface_hub
from pathlib import Path
from tests.unit.training_material import labelled_folder, quick_options
root = labelled_folder(Path("data"), 2)
quick = quick_options(root, Path("run"), max_steps=1, batch_size=2, val_every=1, precision="32")
segmentarium.train(quick)  # Lightning and TensorBoard
assert list(Path("run/tensorboard").iterdir())
data = ["--data", "folder", "--root", "data"]
assert main(["evaluate", "--model", "run", *data, "--boundary-ratio", "0"]) == 0
assert main(["check-data", "data", "--out", "checked"]) == 0
assert main(["segment", "photo.png", "--model", "run", "--out", "segmented"]) == 0
assert main(["models", "bisenet"]) == 0
assert main(["weights", "bisenetv2*"]) == 0
from fastapi.testclient import TestClient
from segmentarium.web.app import create_app
from segmentarium.web.work import shared
with TestClient(create_app({"mine": shared("run")})) as client:
    assert client.get("/").status_code == 200
    assert client.post("/v1/segment", files={"file": Path("photo.png").read_bytes()}).status_code == 200
with socket.socket() as control:
    control.connect_ex(("127.0.0.1", 9))
"""


@dataclass
class Trace:
    """asked: lines of the audit hook; connected: those of strace, None without it; home: files left in the home folder."""

    asked: list[str]
    connected: list[str] | None
    home: list[str]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    folder = tmp_path_factory.mktemp("traced")
    home, site, calls = folder / "home", folder / "site", folder / "calls.txt"
    home.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    Image.fromarray(picture()).save(folder / "photo.png")
    # openvino_telemetry is quiet where CI is set
    kept = {key: value for key, value in os.environ.items() if key not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment = kept | {
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "src"), str(ROOT)]),
        "ASKED": str(folder / "asked.txt"),
        "SEGMENTARIUM_CACHE": str(folder / "cache"),
    }
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmmsg", "-o", str(calls)]
    if shutil.which("strace") is None or subprocess.run([*strace, "true"], capture_output=True, check=False).returncode:
        strace = []
    done = subprocess.run(
        [*strace, sys.executable, "-c", WORK],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    connected = [line for line in calls.read_text("utf-8").splitlines() if "AF_INET" in line] if strace else None
    left = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    return Trace((folder / "asked.txt").read_text("utf-8").splitlines(), connected, left)


def test_python_asks_no_host(trace: Trace) -> None:
    assert trace.asked == ["socket.connect ('127.0.0.1', 9)"]


def test_no_library_asks_a_host(trace: Trace) -> None:
    if trace.connected is None:
        pytest.skip("strace is not installed, or may not trace here")
    assert len(trace.connected) == 1, trace.connected
    assert "sin_port=htons(9)" in trace.connected[0]


def test_nothing_is_left_in_the_home_folder(trace: Trace) -> None:
    assert trace.home == []


def test_only_one_file_imports_what_reports_home() -> None:
    found = {
        str(path.relative_to(ROOT))
        for part in ("src", "tests", "benchmarks", "recipes", "docs")
        for path in (ROOT / part).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.partition(".")[0] in ("onnxruntime", "openvino", "ray")
    }
    assert found == {"src/segmentarium/runtimes.py"}
