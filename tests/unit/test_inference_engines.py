"""Engines agree with eager PyTorch, and "auto" takes the fastest of those that do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segmentarium.files import cache_folder
from segmentarium.inference import Predictor, auto, engines, predict
from segmentarium.inference.engines import Engine, build_engine, fingerprint, missing_packages, onnx_file
from segmentarium.registry import create_model
from segmentarium.runtimes import onnx_session
from tests.unit.inference_material import Brightness, picture


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("pphumanseg", num_classes=3).eval()


@pytest.mark.parametrize(
    ("name", "precision"), [("torch", "fp32"), ("torch", "bf16"), ("onnxruntime", "fp32"), ("openvino", "fp32")]
)
def test_engines_agree_at_several_sizes(name: str, precision: str, network: nn.Module) -> None:
    if missing := missing_packages(name):
        pytest.skip(f"not installed: {missing}")
    engine = build_engine(network, name, precision=precision, device="cpu")
    assert name in str(engine)
    assert precision in str(engine)
    for size in ((1, 3, 64, 96), (2, 3, 97, 129), (1, 3, 64, 96)):
        image = torch.randn(size)
        with torch.inference_mode():
            expected = network(image)
        logits = engine(image)
        assert logits.dtype == torch.float32
        tolerance = 1e-4 if precision == "fp32" else 0.1
        assert (logits - expected).abs().max() / expected.abs().max() < tolerance
        same = (logits.argmax(1) == expected.argmax(1)).float().mean()
        assert same >= (0.999 if precision == "fp32" else 0.95)


class Hungry(nn.Module):
    """Asks for more memory than there is."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.new_empty(2**60 // 4)


def test_memory_that_pytorch_cannot_have_is_a_memory_error() -> None:
    engine = Engine("torch", Hungry(), "cpu")
    with pytest.raises(MemoryError, match=r"there is not enough memory: PyTorch asked for 1152921504606846976 bytes"):
        engine(torch.zeros(1, 3, 32, 32))
    with pytest.raises(RuntimeError, match="size of tensor"):  # another error stays as it is
        Engine("torch", lambda x: x + torch.zeros(5), "cpu")(torch.zeros(1, 3, 32, 32))


class Wide(Brightness):
    """Has no memory for wide pictures."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) if image.shape[-1] < 100 else Hungry()(image)


def test_the_next_picture_goes_on_where_one_has_no_memory() -> None:
    errors: list[Exception] = []
    pictures = [picture(width=120), picture()]
    (result,) = predict(pictures, Wide(), device="cpu", on_error=lambda _, error: errors.append(error))
    assert result.mask.shape == (60, 90)
    assert [type(error) for error in errors] == [MemoryError]


def test_an_engines_result_survives_its_next_call(network: nn.Module) -> None:
    for name in ("torch", "onnxruntime", "openvino"):
        if missing_packages(name):
            continue
        engine = build_engine(network, name, device="cpu")
        first = engine(torch.zeros(1, 3, 64, 64))
        kept = first.clone()
        engine(torch.ones(1, 3, 64, 64))
        assert torch.equal(first, kept), name


def test_onnx_runtime_leaves_the_cores_alone_after_a_run(network: nn.Module) -> None:
    told = onnx_session(onnx_file(network), 2).get_session_options()
    assert told.get_session_config_entry("session.force_spinning_stop") == "1"


@pytest.mark.slow
def test_the_compiled_engine_agrees() -> None:
    model = Brightness(num_classes=3)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(build_engine(model, "compile", device="cpu")(image), model(image))


def test_the_model_itself_stays_as_it_was(network: nn.Module) -> None:
    before = fingerprint(network)
    build_engine(network, "torch", precision="bf16", device="cpu")
    plain = nn.Conv2d(3, 2, 1).train()
    build_engine(plain, "torch", precision="bf16", device="cpu")
    assert fingerprint(network) == before
    assert plain.training
    assert plain.weight.dtype == torch.float32


def test_exported_networks_are_kept_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentarium.export

    written = []

    def to_onnx(_: nn.Module, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"network")
        written.append(path)
        return path

    monkeypatch.setattr(segmentarium.export, "to_onnx", to_onnx)
    model = Brightness()
    assert onnx_file(model) == onnx_file(model)
    with torch.no_grad():
        model.scores.bias += 1
    onnx_file(model)
    assert len(written) == 2


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "NEEDS", {"openvino": ("openvino_that_is_not_here",)})
    with pytest.raises(ImportError, match=r"needs openvino_that_is_not_here.*pip install 'segmentarium\[export\]'"):
        build_engine(Brightness(), "openvino")


class _Made:
    """Engines of made-up speed and truth in place of the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built: list[tuple[str, str]] = []
        self.times = {("torch", "fp32"): 9.0, ("openvino", "bf16"): 1.0, ("onnxruntime", "fp32"): 3.0}
        monkeypatch.setattr(auto, "CANDIDATES", tuple(self.times))
        monkeypatch.setattr(auto, "missing_packages", lambda _: [])
        monkeypatch.setattr(auto, "build_engine", self.build)
        monkeypatch.setattr(auto, "check_answers", lambda *_: None)
        monkeypatch.setattr(auto, "_seconds", lambda engine, _: self.times[(engine.name, engine.details)])
        self.wrong = {"openvino"}
        self.broken: set[str] = set()

    def build(self, model: nn.Module, name: str, *, precision: str, device: object) -> Engine:
        self.built.append((name, precision))
        if name in self.broken:
            raise RuntimeError("no such operator")

        def run(image: Tensor) -> Tensor:
            logits = model(image)
            return logits.flip(1) if name in self.wrong else logits

        return Engine(name, run, precision)


SIGNALLED = """
import faulthandler, os, signal, torch
from segmentarium.inference.engines import build_engine
from tests.unit.inference_material import Brightness
faulthandler.enable()
networks = [build_engine(Brightness(), "openvino", precision="fp32", device="cpu") for _ in range(2)]
while networks:
    networks.pop(0)  # the first goes first
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
os.kill(os.getpid(), signal.SIGUSR1)
assert heard == [1]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
def test_a_signal_is_heard_after_networks_of_openvino() -> None:
    if missing := missing_packages("openvino"):
        pytest.skip(f"not installed: {missing}")
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root)])
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_what_openvino_cannot_compile_is_said_in_a_line(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")

    def refuse(*_: object) -> None:
        raise RuntimeError("Exception from plugin.cpp:54:\nCheck 'scale' failed\n\n")

    monkeypatch.setattr(openvino.Core, "compile_model", refuse)
    with pytest.raises(
        ValueError, match=r"^\w+\.onnx: OpenVINO \S+ cannot compile it in bf16: Check 'scale' failed; take fp32$"
    ):
        build_engine(network, "openvino", precision="bf16", device="cpu")

    def no_room(*_: object) -> None:
        raise RuntimeError("Exception from plugin.cpp:54:\nstd::bad_alloc")

    monkeypatch.setattr(openvino.Core, "compile_model", no_room)
    with pytest.raises(MemoryError):
        build_engine(network, "openvino", device="cpu")


@pytest.mark.parametrize("num_classes", [1, 3])
def test_nothing_agrees_with_an_output_that_is_nan(num_classes: int) -> None:
    model, background = Brightness(num_classes=num_classes), torch.zeros(1, num_classes, 4, 4)
    assert auto.agreement(model, background, background) == 1
    assert auto.agreement(model, background * float("nan"), background) == 0


def test_auto_takes_the_fastest_that_agrees_and_remembers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _Made(monkeypatch)
    model = Brightness(num_classes=3).requires_grad_(False)
    image = torch.from_numpy(picture()).permute(2, 0, 1)[None] / 255
    assert auto.fastest_engine(model, image).name == "onnxruntime"  # the faster one is wrong
    assert len(made.built) == 4
    assert auto.fastest_engine(model, image).name == "onnxruntime"
    assert len(made.built) == 5  # nothing was measured again
    (entry,) = json.loads((cache_folder() / "engines.json").read_text()).values()
    rows = {row["engine"]: row for row in entry["measured"]}
    assert rows["openvino"]["agreement"] < 0.995
    assert rows["onnxruntime"]["agreement"] == 1
    auto.fastest_engine(model, torch.zeros(1, 3, 300, 300))  # another size is measured by itself
    assert len(made.built) == 9


def test_auto_measures_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _Made(monkeypatch)
    model = Brightness(num_classes=3).requires_grad_(False)
    image = torch.rand(1, 3, 64, 64)
    assert auto.fastest_engine(model, image, pictures=10).name == "torch"
    assert made.built == [("torch", "fp32")]
    assert auto.fastest_engine(model, image, pictures=auto.WORTHWHILE).name == "onnxruntime"
    assert auto.fastest_engine(model, image, pictures=10).name == "onnxruntime"  # remembered: it costs nothing


def test_auto_leaves_an_engine_that_never_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waits = auto.check_answers
    made = _Made(monkeypatch)
    made.wrong = set()
    monkeypatch.setattr(auto, "check_answers", lambda model, shape: waits(model, shape, seconds=0.2))
    monkeypatch.setattr(auto, "onnx_file", lambda _: tmp_path / "network.onnx")
    monkeypatch.setattr(auto, "_FORWARD", "import time; time.sleep(30)")
    best, rows = auto.measure(Brightness(num_classes=3), torch.rand(1, 3, 64, 64), torch.device("cpu"))
    assert best == ("onnxruntime", "fp32")
    assert "timed out" in next(row["error"] for row in rows if row["precision"] == "bf16")
    monkeypatch.setattr(auto, "_FORWARD", "raise ValueError('no bf16 here')")
    with pytest.raises(RuntimeError, match="no bf16 here"):
        waits(Brightness(), (1, 3, 64, 64))


def test_auto_survives_broken_engines_and_a_broken_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _Made(monkeypatch)
    made.broken = {"onnxruntime"}
    cache = cache_folder() / "engines.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text("{ half a fi")
    model = Brightness(num_classes=3).requires_grad_(False)
    image = torch.rand(1, 3, 64, 64)
    assert auto.fastest_engine(model, image).name == "torch"
    (entry,) = json.loads(cache.read_text()).values()
    assert "no such operator" in next(row["error"] for row in entry["measured"] if row["engine"] == "onnxruntime")
    made.wrong, made.broken = set(), {"openvino"}
    cache.write_text(
        json.dumps({key: value | {"engine": "openvino"} for key, value in json.loads(cache.read_text()).items()})
    )
    assert auto.fastest_engine(model, image).name == "onnxruntime"  # what was remembered no longer runs: measured anew


def test_a_read_only_cache_costs_nothing_but_the_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _Made(monkeypatch)
    (tmp_path / "file").write_text("in the way of a folder")
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path / "file" / "cache"))
    assert auto.fastest_engine(Brightness().requires_grad_(False), torch.rand(1, 3, 64, 64)).name == "onnxruntime"


def test_a_predictor_on_auto_names_its_engine_after_the_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _Made(monkeypatch)
    predictor = Predictor(Brightness().requires_grad_(False), engine="auto", device="cpu")
    assert predictor.engine is None
    result = predictor(picture())
    assert "onnxruntime" in result.facts["engine"]
    predictor(picture())
    assert len(made.built) == 4
    monkeypatch.setattr(auto, "build_engine", build_engine)


def test_cache_folder_follows_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SEGMENTARIUM_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "segmentarium"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "segmentarium"


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA's")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_what_needs_a_gpu_says_so(network: nn.Module) -> None:
    for name, precision in (("cudagraph", "fp32"), ("tensorrt", "fp16"), ("torch", "fp16"), ("compile", "fp16")):
        with pytest.raises(ImportError, match="needs a GPU"):
            build_engine(network, name, precision=precision)
    from segmentarium.inference.gpu import in_half

    with pytest.raises(ValueError, match="fp16 is for GPUs, and the device is cpu"):
        in_half(network, torch.device("cpu"))


@GPU
@pytest.mark.parametrize(("name", "precision"), [("torch", "fp16"), ("cudagraph", "fp32"), ("cudagraph", "fp16")])
def test_engines_of_gpus_agree_at_every_size(name: str, precision: str) -> None:
    model = Brightness(num_classes=3)
    engine = build_engine(model, name, precision=precision, device="cuda")
    tolerance = 1e-5 if precision == "fp32" else 5e-3
    earlier = []
    for size in ((64, 64), (48, 80), (64, 64)):  # the last is replayed
        image = torch.rand(1, 3, *size)
        with torch.inference_mode():
            expected = model(image)
        found = engine(image)
        torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)
        earlier.append((found, expected))
    for found, expected in earlier:  # a later call has not written over them
        torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


@GPU
def test_tensorrt_agrees_where_it_is_installed() -> None:
    model = Brightness(num_classes=3)
    try:
        engine = build_engine(model, "tensorrt")
    except ImportError as error:
        pytest.skip(str(error))
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(engine(image), model(image), rtol=1e-3, atol=1e-3)
