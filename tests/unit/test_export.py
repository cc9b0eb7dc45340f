"""Export: three formats that equal eager PyTorch at any size, say what they hold, and are whole or not there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmentarium import files
from segmentarium.cli.main import main
from segmentarium.contracts import Preprocessing, SegmentationModel, Term
from segmentarium.export import (
    FORMATS,
    ExportError,
    ExportReport,
    ParityError,
    export_formats,
    export_model,
    read_metadata,
    to_onnx,
)
from segmentarium.export.formats import deploy_form, staged, target, trace
from segmentarium.export.parity import (
    RUNNERS,
    Comparison,
    arrays_of,
    compare,
    compare_instances,
    natural_noise,
    network_input,
)
from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy

SIZES = ((64, 96), (45, 61))


class Tiny(SegmentationModel):
    """All that usually breaks in export: strided and depthwise convolutions, global pooling, resizes, a training branch."""

    training_only = ("auxiliary",)

    def __init__(self, num_classes: int = 5, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.stem = ConvNormAct(in_channels, 8, 3, 2)
        self.body = SeparableConv(8, 16, stride=2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(16, 16, 1))
        self.head = nn.Conv2d(16, num_classes, 1)
        self.auxiliary = nn.Conv2d(8, num_classes, 1)
        self.set_objective(Term("logits", 1.0, CrossEntropy()))
        for norm in self.modules():  # statistics as after training, so that folding has something to fold
            if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.5, 1.5)

    def forward(self, image: Tensor) -> Tensor:
        features = self.body(self.stem(image))
        features = features + resize(self.pool(features), features.shape[-2:])
        return resize(self.head(features), image.shape[-2:])


class Sloped(SegmentationModel):
    """PReLU with a slope a channel, of maps and of vectors, and with one slope for all."""

    def __init__(self, num_classes: int = 5, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 8, 1), nn.PReLU())
        self.weigh = nn.Sequential(nn.Linear(8, 8), nn.PReLU(8))
        self.head = nn.Conv2d(8, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.PReLU):
                nn.init.uniform_(module.weight, -0.5, 1.5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        return self.head(x * self.weigh(x.mean((2, 3)))[:, :, None, None])


def test_prelu_is_written_in_operators_that_engines_are_fast_at() -> None:
    torch.manual_seed(0)
    model = Sloped().eval()
    form = deploy_form(model)
    assert not any(isinstance(module, nn.PReLU) for module in form.modules())
    assert sum(isinstance(module, nn.PReLU) for module in model.modules()) == 3
    image = torch.randn(2, 3, 9, 12)
    with torch.inference_mode():
        assert torch.equal(form(image), model(image))


class WrongDeploy(Tiny):
    def deploy(self) -> SegmentationModel:
        model = super().deploy()
        model.get_submodule("head").weight.data *= 1.001
        return model


class DataDependent(Tiny):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image * 2 if image.sum().item() > 0 else image)


def astronaut() -> np.ndarray:
    from skimage.data import astronaut

    return astronaut()


@pytest.fixture(scope="module")
def model() -> Tiny:
    torch.manual_seed(0)
    made = Tiny().eval()
    made.classes = ("road", "Gehweg", "人", "sky", "void")
    made.preprocessing = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 480)
    made.weights_header = {
        "licences": {"code": "Apache-2.0", "data": "CC0"},
        "dataset": "camvid",
        "metrics": {"miou": 0.6},
    }
    return made


@pytest.fixture(scope="module")
def reports(model: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    path = tmp_path_factory.mktemp("export") / "tiny"
    made = export_formats(model, path, formats=tuple(FORMATS), sizes=SIZES, images=[astronaut()])
    return {report.format: report for report in made}


@pytest.mark.parametrize("format", list(FORMATS))
def test_every_format_equals_eager_on_a_photo(reports: dict[str, ExportReport], format: str) -> None:
    report = reports[format]
    assert report.passed
    assert 0 < report.relative_error < 1e-5
    assert [(row.size, row.batch) for row in report.comparisons] == [((64, 96), 1), ((45, 61), 2)]
    assert all(row.same_class > 0.999 for row in report.comparisons)
    written = json.loads((report.path.parent / f"{report.path.name}.parity.json").read_text(encoding="utf-8"))
    assert written["relative_error"] == report.relative_error
    assert written["comparisons"][1]["size"] == [45, 61]
    assert written["passed"]
    assert written["images"] == "1 given"


def test_the_folder_holds_the_files_and_nothing_else(reports: dict[str, ExportReport]) -> None:
    names = {file.name for file in reports["onnx"].path.parent.iterdir()}
    files = {"tiny.onnx", "tiny.pt2", "tiny.xml"}
    assert names == files | {f"{name}.parity.json" for name in files} | {"tiny.bin"}


@pytest.mark.parametrize("format", list(FORMATS))
def test_batch_height_and_width_are_dynamic(model: Tiny, reports: dict[str, ExportReport], format: str) -> None:
    runner = RUNNERS[format](reports[format].path)
    for shape in ((1, 3, 32, 32), (3, 3, 65, 200), (1, 3, 128, 33)):
        image = torch.randn(shape)
        with torch.inference_mode():
            expected = model(image).numpy()
        assert compare(arrays_of(runner(image.numpy()))[0], expected).relative_error < 1e-5


@pytest.mark.parametrize("format", list(FORMATS))
def test_metadata_travels(model: Tiny, reports: dict[str, ExportReport], format: str) -> None:
    metadata = read_metadata(reports[format].path)
    assert metadata == reports[format].metadata
    assert metadata["classes"] == list(model.classes)
    assert metadata["palette"] == [list(colour) for colour in model.palette]
    assert Preprocessing.from_dict(metadata["preprocessing"]) == model.preprocessing
    assert metadata["licences"] == {"code": "Apache-2.0", "data": "CC0"}
    assert metadata["dataset"] == "camvid"


def test_no_local_path_and_no_example_travels(reports: dict[str, ExportReport]) -> None:
    weights = 4 * sum(p.numel() for p in Tiny().deploy().parameters())
    for report in reports.values():
        content = report.path.read_bytes()
        assert str(Path(__file__).parent).encode() not in content
        assert len(content) < 120_000 + 10 * weights  # the example alone would be 600 kB


def test_onnx_names_its_dimensions(reports: dict[str, ExportReport]) -> None:
    import onnx

    graph = onnx.load(str(reports["onnx"].path)).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {"image": ["batch", 3, "height", "width"], "logits": ["batch", 5, "height", "width"]}
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)


def test_the_model_itself_stays_as_it_was(tmp_path: Path) -> None:
    model = Tiny().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_model(model, tmp_path / "model", format="torch", sizes=SIZES)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize(("num_classes", "in_channels"), [(1, 1), (2, 4)])
def test_one_logit_and_other_channels(tmp_path: Path, num_classes: int, in_channels: int) -> None:
    report = export_model(Tiny(num_classes, in_channels), tmp_path / "m.pt2", sizes=SIZES, images=[astronaut()])
    assert report.passed
    assert report.metadata["in_channels"] == in_channels


def test_a_difference_is_refused_and_the_earlier_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"an earlier export")
    with pytest.raises(ParityError, match=r"model\.pt2 was not written.*tolerance 1e-04") as caught:
        export_model(WrongDeploy(), path, sizes=SIZES, overwrite=True)
    assert 1e-4 < caught.value.report.relative_error < 1e-2
    assert path.read_bytes() == b"an earlier export"
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


def test_a_model_without_a_graph_is_an_export_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot trace DataDependent"):
        export_model(DataDependent(), tmp_path / "model.onnx", sizes=SIZES)
    assert list(tmp_path.iterdir()) == []


class InPlace(SegmentationModel):
    """Operators that change what they are given, read by nobody else, through a view, and later on."""

    def __init__(self) -> None:
        super().__init__(num_classes=4, in_channels=3)
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, 3, padding=1) for _ in range(4))

    def forward(self, image: Tensor) -> Tensor:
        plain, looked_at, later, argument = (conv(image) for conv in self.convs)
        y = nn.functional.relu6(plain, inplace=True)
        looked_at.flatten(2).add_(1)  # what it is a view of is read below
        before = later + 1
        later.mul_(2)
        total = argument * 3
        total += y
        return total.sigmoid_() + looked_at + before + later


def test_only_what_nobody_else_reads_is_made_anew() -> None:
    model = InPlace().eval()
    program = trace(deploy_form(model)).program
    targets = [str(node.target).removeprefix("aten.") for node in program.graph.nodes if node.op == "call_function"]
    assert sum(name.startswith(("hardtanh.", "relu6.")) for name in targets) == 1
    assert {name.split(".")[0] for name in targets if name.split(".")[0].endswith("_")} == {"add_", "mul_"}
    image = torch.randn(2, 3, 40, 56)
    with torch.inference_mode():
        assert torch.allclose(program.module()(image), model(image), atol=1e-6)


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl", reason="this system has no locks of files")
    monkeypatch.setattr(files, "_YOUNG", -1.0)
    left = tmp_path / f".model.onnx.{'0' * 12}.part"
    left.mkdir()
    (left / "model.onnx").write_bytes(b"half")
    files._swept.clear()
    with staged(tmp_path / "other.onnx") as temporary:
        assert re.fullmatch(r"\.other\.onnx\.[0-9a-f]{12}\.part", temporary.parent.name)
        temporary.write_bytes(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.onnx"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staged(tmp_path / "model.xml") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_to_onnx_returns_the_path_of_a_file_that_runs(model: Tiny, tmp_path: Path) -> None:
    path = to_onnx(model, tmp_path / "network")
    assert path == tmp_path / "network.onnx"
    image = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        assert compare(arrays_of(RUNNERS["onnx"](path)(image.numpy()))[0], model(image).numpy()).relative_error < 1e-5


@pytest.mark.parametrize("opset", [11, 18])
def test_the_operator_set_is_what_was_asked_for_or_refused(model: Tiny, tmp_path: Path, opset: int) -> None:
    import onnx

    try:
        path = to_onnx(model, tmp_path / "tiny.onnx", opset=opset)
    except ExportError as error:
        assert re.search(rf"operator set {opset} was asked for|exporter failed", str(error))  # noqa: PT017
        assert list(tmp_path.iterdir()) == []
    else:
        assert [one.version for one in onnx.load(str(path)).opset_import if not one.domain] == [opset]


def test_path_and_format_complete_each_other() -> None:
    assert target("a/b", None) == (Path("a/b.onnx"), "onnx")
    assert target("a/b.pt2", None) == (Path("a/b.pt2"), "torch")
    assert target("a/street.camvid", "openvino") == (Path("a/street.camvid.xml"), "openvino")
    with pytest.raises(ValueError, match="not 'torch'"):
        target("b.onnx", "torch")
    with pytest.raises(ValueError, match="give one of onnx, torch, openvino"):
        target("b", "tensorrt")


def test_empty_images_and_sizes_are_refused(model: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images is empty"):
        export_model(model, tmp_path / "m", images=[])
    with pytest.raises(ValueError, match="sizes is empty"):
        export_model(model, tmp_path / "m", sizes=[])


def test_compare_counts_errors_and_classes() -> None:
    reference = np.zeros((1, 2, 2, 2), np.float32)
    reference[:, 0] = 1
    output = reference.copy()
    output[0, 1, 0, 0] = 2  # one of four pixels changes its class
    row = compare(output, reference)
    assert (row.absolute_error, row.relative_error, row.same_class) == (2, 2, 0.75)
    output[0, 0, 0, 0] = np.nan
    assert compare(output, reference).relative_error == float("inf")
    assert compare(reference[:, :1], reference).same_class == 0
    assert compare(reference[:, :1] - 2, reference[:, :1]).same_class == 0  # sigmoid: below 0 is background


@pytest.mark.parametrize("errors", [(float("nan"), 0.0), (0.0, float("nan")), (0.0, float("nan"), 0.0)])
def test_a_report_with_nan_does_not_pass_wherever_it_stands(errors: tuple[float, ...]) -> None:
    rows = tuple(Comparison((8, 8), 1, error, error, 1.0) for error in errors)
    assert not ExportReport(Path("m.onnx"), "onnx", rows, 1e-4, {}, "noise", 1.0, 1.0).passed


def test_what_cannot_be_measured_is_an_infinite_error() -> None:
    right, broken = np.ones((1, 2, 2, 2), np.float32), np.full((1, 2, 2, 2), np.nan, np.float32)
    assert compare(right, broken).relative_error == float("inf")
    assert compare(right + 1, right, slack=np.full((1, 2, 1, 1), np.inf)).relative_error == float("inf")


@pytest.mark.parametrize("part", [2, 3])
def test_an_instance_whose_score_or_mask_is_nan_is_an_infinite_error(part: int) -> None:
    boxes = np.array([[[0, 0, 4, 4], [4, 4, 8, 8]]], np.float32)
    given = [boxes, np.zeros((1, 2), np.int64), np.ones((1, 2), np.float32), np.ones((1, 2, 4, 4), np.float32)]
    found = [array.copy() for array in given]
    found[part][0, 1] = np.nan
    assert compare_instances(tuple(given), tuple(given), (8, 8)).relative_error == 0
    assert compare_instances(tuple(found), tuple(given), (8, 8)).relative_error == float("inf")


@pytest.mark.parametrize("suffix", ["onnx", "pt2", "xml"])
def test_metadata_of_a_damaged_file_is_one_line_that_names_it(suffix: str, tmp_path: Path) -> None:
    for content in (b"", b"not a network"):
        (file := tmp_path / f"net.{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=rf"net\.{suffix} is no exported model that can be read: .") as caught:
            read_metadata(file)
        assert "\n" not in str(caught.value)


def test_natural_noise_has_the_spectrum_of_photos() -> None:
    noise = natural_noise(256, 256)
    assert noise.shape == (256, 256, 3)
    assert noise.dtype == np.uint8
    assert np.array_equal(noise, natural_noise(256, 256))
    spectrum = np.abs(np.fft.fft2(noise[..., 0].astype(float)))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    low, high = (spectrum[(radius > r * 0.9) & (radius < r * 1.1)].mean() for r in (0.02, 0.2))
    assert 7 < low / high < 13  # ten times the frequency: a tenth of the amplitude


def test_network_input_is_normalised_as_the_model_wants() -> None:
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    white = np.full((40, 50, 3), 255, np.uint8)
    for channels in (1, 3, 4):
        example = network_input(white, (33, 47), preprocessing, channels)
        assert example.shape == (1, channels, 33, 47)
        assert torch.allclose(example, torch.tensor(2.0))


def test_command_line_writes_all_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "export",
        "pphumanseg",
        "--random-weights",
        "--format",
        "onnx,torch",
        "--size",
        "64x96",
        "--out",
        str(tmp_path),
    ]
    assert main(words) == 0
    assert {"pphumanseg.onnx", "pphumanseg.pt2"} <= {file.name for file in tmp_path.iterdir()}
    assert read_metadata(tmp_path / "pphumanseg.onnx")["model"] == "pphumanseg"
    assert "pphumanseg" in capsys.readouterr().out


def test_command_line_fails_where_parity_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "pphumanseg", "--random-weights", "--format", "torch", "--size", "64x96", "--out", str(tmp_path)]
    assert main([*words, "--tolerance", "1e-12"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert "was not written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pphumanseg"], "architecture without weights"),
        ([], "give the models to export"),
        (["pphumanseg", "--all"], "not both"),
        (["pphumanseg", "--format", "onnx,coreml"], "give one or more of onnx, torch, openvino"),
        (["bisenetv3", "--random-weights"], "did you mean"),
        (["nothing.safetensors"], "no weights called"),
    ],
)
def test_command_line_says_what_is_wrong(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *words]) == 2
    assert message in capsys.readouterr().err
