"""Weights in and out: key tables, strict loading, files that are whole or refused, the hub."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import segmentarium
from segmentarium import weights
from segmentarium.backbones import create_backbone
from segmentarium.contracts import Preprocessing, SegmentationModel
from segmentarium.files import atomic_write
from segmentarium.registry import create_model
from segmentarium.weights import FILE_NAME, CheckpointError, export_layout, load, read_file, save
from segmentarium.weights.table import LoadError, adapt_input_channels

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    made = create_model("pphumanseg", num_classes=3).eval()
    assert isinstance(made, SegmentationModel)
    made.classes = ("void", "person", "bag")
    made.preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 320)
    return made


@pytest.fixture(scope="module")
def path(model: SegmentationModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(model, tmp_path_factory.mktemp("weights") / FILE_NAME, dataset="photos", metrics={"miou": 0.5})


# our files --------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_file_rebuilds_its_model(model: SegmentationModel, path: Path) -> None:
    for source in (path, str(path), path.parent):
        again = load(source)
        assert torch.equal(again(IMAGE), model(IMAGE))
        assert not again.training
        assert again.classes == ("void", "person", "bag")
        assert again.palette == model.palette
        assert again.preprocessing == model.preprocessing
    assert torch.equal(segmentarium.from_pretrained(path.parent)(IMAGE), model(IMAGE))


def test_the_header_says_what_the_file_is(path: Path) -> None:
    _, header = read_file(path)
    assert header is not None
    assert header["model"] == "pphumanseg"
    assert header["arguments"] == {"num_classes": 3}
    assert header["dataset"] == "photos"
    assert header["metrics"] == {"miou": 0.5}
    assert set(header) >= {"format", "classes", "palette", "preprocessing", "licences"}
    assert load(path).weights_header == header


def test_half_precision_halves_the_file(model: SegmentationModel, path: Path, tmp_path: Path) -> None:
    half = save(model, tmp_path / "half.safetensors", dtype=torch.float16)
    assert half.stat().st_size < 0.6 * path.stat().st_size
    again = load(half)
    assert next(again.parameters()).dtype == torch.float32
    assert torch.allclose(again(IMAGE), model(IMAGE), atol=0.02)


def test_no_stray_files_and_readable_ones(path: Path) -> None:
    assert [file.name for file in path.parent.iterdir()] == [FILE_NAME]
    assert path.stat().st_mode & 0o777 == 0o644


def test_other_classes_get_a_new_head_and_a_warning(model: SegmentationModel, path: Path) -> None:
    with pytest.warns(UserWarning, match=r"mis-shaped: classifier.*is \(3,.*in the file, \(9,"):
        made = create_model("pphumanseg", weights=str(path), num_classes=9)
    assert torch.equal(made.stem.conv.weight, model.stem.conv.weight)
    assert made.given_arguments == {"num_classes": 9}
    assert made.classes == tuple(f"class {i}" for i in range(9))
    assert made.preprocessing == model.preprocessing


def test_the_weights_bring_their_own_classes(model: SegmentationModel, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = create_model("pphumanseg", weights=str(path)).eval()
    assert made.num_classes == 3
    assert made.classes == model.classes
    with torch.inference_mode():
        assert torch.equal(made(IMAGE), model(IMAGE))


@pytest.mark.parametrize("in_channels", [1, 4])
def test_a_model_of_other_channels_takes_the_weights_and_says_so(path: Path, in_channels: int) -> None:
    with pytest.warns(
        UserWarning, match="adapted to the input channels, or from a table of another grid: stem.conv.weight"
    ):
        made = create_model("pphumanseg", weights=str(path), in_channels=in_channels)
    stored, _ = read_file(path)
    assert torch.equal(made.stem.conv.weight, adapt_input_channels(stored["stem.conv.weight"], in_channels))
    assert made.num_classes == 3
    assert made.classes == ("void", "person", "bag")
    assert len(made.preprocessing.mean) == in_channels


def test_weights_of_another_model_are_refused(path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds weights of 'pphumanseg', not of 'bisenetv2'; create that model, or load"
    ):
        create_model("bisenetv2", weights=str(path))


def test_weights_of_another_variant_are_refused(tmp_path: Path) -> None:
    path = save(create_model("segformer_b0", num_classes=3), tmp_path / "b0.safetensors")
    with pytest.raises(ValueError, match=r"'segformer_b0' with .*backbone='mit_b0', but 'segformer_b1' has"):
        create_model("segformer_b1", weights=str(path))


def test_a_file_whose_tensors_are_not_its_model_s_is_refused(model: SegmentationModel, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    header = json.dumps(weights.header_of(model))
    state = model.state_dict()
    del state["classifier.pointwise.conv.weight"]
    file = tmp_path / "model.safetensors"
    save_file(state, file, metadata={weights.HEADER: header})
    with pytest.raises(LoadError, match=r"missing in the file: classifier\.pointwise\.conv\.weight"):
        load(file)
    with pytest.warns(UserWarning, match="does not fill pphumanseg"):
        assert isinstance(load(file, strict=False), type(model))


def test_a_model_that_create_model_did_not_build_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Conv2d was not built by create_model.*save its state_dict\(\) yourself"):
        save(torch.nn.Conv2d(3, 4, 1), tmp_path / "model.safetensors")
    made = create_model("segformer_b0", backbone=create_backbone("mit_b0"))
    with pytest.raises(ValueError, match=r"built with a module as its backbone.*give backbone by name"):
        save(made, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


# damaged and dangerous files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 7, 200, -10])
def test_a_truncated_file_is_refused(path: Path, tmp_path: Path, keep: int) -> None:
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"no whole safetensors file .*was the download or copy complete\?"):
        load(broken)


class Payload:
    """What a malicious checkpoint looks like: unpickling it calls a function of its choice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrap", [lambda payload: payload, lambda payload: {"state_dict": {}, "meta": payload}])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, wrap) -> None:
    file, proof = tmp_path / "theirs.pth", tmp_path / "it-ran"
    torch.save(wrap(Payload(proof)), file)
    with pytest.raises(CheckpointError, match=r"could run code when opened and is refused.*safetensors"):
        load(file)
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "theirs.pth"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"theirs\.pth"):
        load(file)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.ones(2)])
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    file = tmp_path / "theirs.pth"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load(file)


def test_nothing_at_that_path_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither a file, nor of the catalogue, nor a hub address"):
        load(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights called"):
        load(tmp_path)  # a folder without model.safetensors


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_a_kill_leaves_the_old_file(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    file = save(model, tmp_path / "model.safetensors")
    before = file.read_bytes()

    def writes_half(target: Path, content: bytes) -> None:
        with target.open("wb") as half:
            half.write(content[:1000])
        raise error

    monkeypatch.setattr(Path, "write_bytes", writes_half)
    with pytest.raises(type(error)):
        save(model, file)
    assert file.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir()] == ["model.safetensors"]


def test_atomic_write_shows_the_file_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"all of it")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename within one file system
    assert target.read_bytes() == b"all of it"
    assert [left.name for left in target.parent.iterdir()] == ["file.bin"]


def with_header(path: Path, file: Path, change: Callable[[dict], object]) -> Path:
    """The file `path` with its header changed."""
    from safetensors.torch import save_file

    state, header = read_file(path)
    assert header is not None
    change(header)
    save_file(state, file, metadata={weights.HEADER: json.dumps(header)})
    return file


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 10**9},
        {"num_classes": 10**7},
        {"num_classes": float("inf")},
        {"in_channels": 10**9},
        {"num_classes": "three"},
        {"num_classes": [3]},
        {"depth": 3},
        [],
    ],
)
def test_sizes_that_the_tensors_do_not_have_are_refused(path: Path, tmp_path: Path, arguments: object) -> None:
    """Before anything of such a size is allocated; all of these were built first, once."""
    file = with_header(path, tmp_path / "theirs.safetensors", lambda header: header.update(arguments=arguments))
    with pytest.raises(CheckpointError, match=r"theirs\.safetensors"):
        load(file)
    with pytest.raises(CheckpointError, match=r"theirs\.safetensors"):
        create_model("pphumanseg", weights=str(file))


def test_a_size_within_reason_is_compared_on_the_meta_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = save(create_model("segformer_b0", num_classes=2), tmp_path / "small.safetensors")
    file = with_header(small, tmp_path / "wide.safetensors", lambda header: header["arguments"].update(embed_dim=4000))
    built = []
    monkeypatch.setattr(
        "segmentarium.semantic.segformer.AllMLPDecoder.forward", lambda *given: built.append(given)
    )  # never reached
    with pytest.raises(LoadError, match=r"mis-shaped: decoder.*is \(256"):
        load(file)
    assert not built


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("model"),
        lambda header: header.pop("arguments"),
        lambda header: header.update(model="no_such_model"),
        lambda header: header.update(classes=3),
        lambda header: header.update(palette=[[-1, 0, 0]] * 3),
        lambda header: header.update(palette=[[0, 0]] * 3),
        lambda header: header.update(classes=["one"]),
        lambda header: header["preprocessing"].update(std=[0.0, 1.0, 1.0]),
        lambda header: header["preprocessing"].update(mean=[]),
        lambda header: header["preprocessing"].update(long_side=10**9),
    ],
)
def test_a_header_that_says_nonsense_is_refused_by_the_file_s_name(path: Path, tmp_path: Path, change) -> None:
    file = with_header(path, tmp_path / "theirs.safetensors", change)
    with pytest.raises(CheckpointError, match=r"theirs\.safetensors"):
        load(file)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '"pphumanseg"'])
def test_a_header_that_is_no_header_is_refused(path: Path, tmp_path: Path, text: str) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "theirs.safetensors"
    save_file(read_file(path)[0], file, metadata={weights.HEADER: text})
    with pytest.raises(CheckpointError, match=r"theirs\.safetensors"):
        load(file)


def test_a_file_cannot_make_the_network_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    asked = []
    make = timm.create_model

    def watched(name: str, *, pretrained: bool = False, **arguments: object) -> torch.nn.Module:
        asked.append(pretrained)
        return make(name, **arguments)

    monkeypatch.setattr(timm, "create_model", watched)
    arguments = {"backbone": "timm:mobilenetv3_small_050", "backbone_arguments": {"pretrained": False}}
    made = save(create_model("segformer_b0", num_classes=2, embed_dim=16, **arguments), tmp_path / "made.safetensors")

    def ask(header: dict) -> None:
        header["arguments"]["backbone_arguments"] = {"pretrained": True}
        header["arguments"]["backbone_weights"] = "timm:mobilenetv3_small_050"

    model = load(with_header(made, tmp_path / "asks.safetensors", ask))
    assert asked
    assert not any(asked)
    assert model.given_arguments["backbone_arguments"] == {}


# other people's files ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return export_layout(create_model("bisenetv2", num_classes=4, upsample="nearest"), "bisenetv2/coincheung")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["bare", "state_dict", "data-parallel"],
)
def test_a_foreign_checkpoint_is_recognised(
    tmp_path: Path, theirs: dict, wrap, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "theirs.pth"
    torch.save(wrap(theirs), file)
    with caplog.at_level("INFO", "segmentarium"):
        model = load(file)
    assert model.registered_name == "bisenetv2"
    assert model.num_classes == 4
    assert model.aggregation.upsample == "nearest"
    assert "theirs.pth: bisenetv2, layout bisenetv2/coincheung" in caplog.text
    assert "boosters" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_a_foreign_checkpoint_as_a_start_for_other_classes(tmp_path: Path, theirs: dict) -> None:
    file = tmp_path / "theirs.pth"
    torch.save(theirs, file)
    with pytest.warns(UserWarning, match="mis-shaped: head"):
        model = create_model("bisenetv2", weights=str(file), num_classes=7)
    assert model.num_classes == 7
    assert torch.equal(model.detail.stage1[0].conv.weight, theirs["detail.S1.0.conv.weight"])


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    file = tmp_path / "theirs.pth"
    torch.save({"a.b": torch.ones(1), "c": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"no known layout has these keys \(a\.b, c, …\); a state dict of ours alone"):
        load(file)
    with pytest.raises(
        KeyError, match=r"no layout is called 'bisenetv2/coinchueng'; did you mean 'bisenetv2/coincheung'"
    ):
        load(file, layout="bisenetv2/coinchueng")


def test_one_key_too_few_or_too_many_is_not_recognised(tmp_path: Path, theirs: dict) -> None:
    file = tmp_path / "theirs.pth"
    torch.save({**theirs, "extra": torch.ones(1)}, file)
    near = r"no known layout has these keys \(detail.*; the nearest is 'bisenetv2/coincheung', where \d+ tensors fit"
    with pytest.raises(LoadError, match=near) as refused:
        load(file)
    assert refused.value.report.unexpected == ["extra"]
    assert not refused.value.report.missing
    with pytest.raises(LoadError, match="unexpected in the file: extra"):
        load(file, layout="bisenetv2/coincheung")
    fewer = {key: value for key, value in theirs.items() if key != "head.conv_out.1.bias"}
    torch.save(fewer, file)
    with pytest.raises(LoadError, match=r"missing in the file: head\.2\.bias"):
        load(file, layout="bisenetv2/coincheung")
    with pytest.raises(LoadError, match="the nearest is 'bisenetv2/coincheung'") as refused:
        load(file)
    assert refused.value.report.missing == ["head.2.bias"]
    with pytest.raises(ValueError, match="bisenetv2/mmseg reads the model's arguments off keys that are not here"):
        load(file, layout="bisenetv2/mmseg")
    with pytest.warns(UserWarning, match=r"does not fill bisenetv2:(.|\n)*missing in the file: head.2.bias"):
        report_less = load(file, layout="bisenetv2/coincheung", strict=False)
    assert torch.equal(report_less.head[2].weight, theirs["head.conv_out.1.weight"])


def test_a_foreign_layout_in_safetensors_is_read_too(tmp_path: Path, theirs: dict) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "theirs.safetensors"
    save_file({key: value.contiguous() for key, value in theirs.items()}, file)
    assert load(file).registered_name == "bisenetv2"


# the hub ----------------------------------------------------------------------------------------------------------------


def test_push_uploads_the_file_and_a_card(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    calls: list[tuple] = []

    class Api:
        def __init__(self, token: str | None = None) -> None:
            calls.append(("token", token))

        def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
            calls.append(("create", repository, private, exist_ok))

        def upload_folder(self, *, folder_path: str, repo_id: str) -> str:
            for file in Path(folder_path).iterdir():
                (tmp_path / file.name).write_bytes(file.read_bytes())
            return f"https://hub.example/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = segmentarium.push_to_hub(model, "someone/people", private=True, token="t", dataset="photos")
    assert address == "https://hub.example/someone/people"
    assert calls == [("token", "t"), ("create", "someone/people", True, True)]
    assert {file.name for file in tmp_path.iterdir()} == {FILE_NAME, "README.md"}
    with torch.inference_mode():
        assert torch.equal(segmentarium.from_pretrained(tmp_path)(IMAGE), model(IMAGE))
    card = (tmp_path / "README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: segmentarium\n")
    assert "# pphumanseg" in card
    assert "- dataset: photos" in card
    assert 'segmentarium.from_pretrained("someone/people")' in card


@pytest.mark.parametrize("source", ["someone/people", "hf:someone/people"])
def test_from_pretrained_fetches_from_the_hub(path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    import huggingface_hub

    asked: list[tuple[str, str]] = []

    def fetch(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert segmentarium.from_pretrained(source).registered_name == "pphumanseg"
    assert asked == [("someone/people", FILE_NAME)]


def test_a_file_of_bsn_with_the_attribute_beside_the_decoder(tmp_path: Path) -> None:
    """So version 0.1.0 wrote them."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    model = create_model("bsn", backbone="resnet18")
    path = segmentarium.save(model, tmp_path / "new.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        state = {key.replace("decoder.attribute.", "attribute."): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(state, tmp_path / "old.safetensors", metadata=metadata)
    again = segmentarium.load(tmp_path / "old.safetensors")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
