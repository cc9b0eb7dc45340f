"""Weights in and out: key tables, strict loading, files that are whole or refused, the hub."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import segmentarium
from segmentarium import weights
from segmentarium.contracts import Preprocessing, SegmentationModel
from segmentarium.registry import create_model
from segmentarium.weights import FILE_NAME, CheckpointError, atomic_write, export_layout, load, read_file, save
from segmentarium.weights.table import LoadError, LoadReport, Rule, adapt_input_channels, load_state, to_ours, to_theirs

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


# key tables -------------------------------------------------------------------------------------------------------------


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def test_patterns_carry_parts_over_in_order() -> None:
    state = {"stage.2.block.7.conv.weight": torch.ones(1), "head.a.b.c": torch.ones(2)}
    rules = [Rule("stage.{}.block.{}.conv.{*}", "s{}.b{}.{*}"), Rule("head.{*}", "classifier.{*}")]
    ours, unexpected, dropped = to_ours(state, rules, {})
    assert shapes(ours) == {"s2.b7.weight": (1,), "classifier.a.b.c": (2,)}
    assert (unexpected, dropped) == ([], [])
    assert to_theirs(ours, rules).keys() == state.keys()


def test_a_part_ends_at_a_dot_and_a_rest_does_not() -> None:
    rules = [Rule("a.{}.w", "one.{}")]
    assert to_ours({"a.b.c.w": torch.ones(1)}, rules, {})[1] == ["a.b.c.w"]
    assert to_ours({"aXb.w": torch.ones(1)}, rules, {})[1] == ["aXb.w"]  # a dot in a pattern is a dot


def test_the_first_rule_that_fits_counts() -> None:
    rules = [Rule("head.special", "special"), Rule("head.{}", "other.{}")]
    ours, *_ = to_ours({"head.special": torch.ones(1), "head.x": torch.ones(1)}, rules, {})
    assert set(ours) == {"special", "other.x"}


@pytest.mark.parametrize("suffix", ["weight", "bias"])
def test_query_key_value_apart_become_a_stack_and_come_back(suffix: str) -> None:
    parts = {f"attn.0.{which}.{suffix}": torch.randn(4, 3) for which in ("q", "k", "v")}
    rules = [Rule(tuple(f"attn.{{}}.{which}.{{*}}" for which in ("q", "k", "v")), "blocks.{}.qkv.{*}")]
    ours, unexpected, _ = to_ours(parts, rules, {f"blocks.0.qkv.{suffix}": (12, 3)})
    assert unexpected == []
    assert torch.equal(ours[f"blocks.0.qkv.{suffix}"], torch.cat(list(parts.values())))
    back = to_theirs(ours, rules)
    assert back.keys() == parts.keys()
    assert all(torch.equal(back[key], value) for key, value in parts.items())


def test_a_stack_becomes_parts_of_the_sizes_that_the_model_has() -> None:
    stack = {"attn.0.qkv.weight": torch.randn(10, 3)}
    rules = [Rule("attn.{}.qkv.{*}", ("blocks.{}.q.{*}", "blocks.{}.kv.{*}"))]
    ours, unexpected, _ = to_ours(stack, rules, {"blocks.0.q.weight": (4, 3), "blocks.0.kv.weight": (6, 3)})
    assert unexpected == []
    assert shapes(ours) == {"blocks.0.q.weight": (4, 3), "blocks.0.kv.weight": (6, 3)}
    assert torch.equal(to_theirs(ours, rules)["attn.0.qkv.weight"], stack["attn.0.qkv.weight"])
    wrong = to_ours(stack, rules, {"blocks.0.q.weight": (4, 3), "blocks.0.kv.weight": (4, 3)})
    assert wrong[1] == ["attn.0.qkv.weight"]


def test_an_incomplete_stack_is_unexpected() -> None:
    rules = [Rule(("attn.q", "attn.k"), "qk")]
    ours, unexpected, _ = to_ours({"attn.q": torch.ones(2)}, rules, {"qk": (4,)})
    assert (ours, unexpected) == ({}, ["attn.q"])
    assert to_ours({"attn.k": torch.ones(2)}, rules, {"qk": (4,)})[1] == ["attn.k"]


def test_a_pointwise_convolution_is_a_linear_layer_and_back() -> None:
    state = {"mlp.fc.weight": torch.randn(8, 4, 1, 1), "mlp.fc.bias": torch.randn(8)}
    rules = [Rule("mlp.fc.{*}", "linear.{*}", theirs_ndim=4)]
    ours, *_ = to_ours(state, rules, {})
    assert shapes(ours) == {"linear.weight": (8, 4), "linear.bias": (8,)}
    back = to_theirs(ours, rules)
    assert shapes(back) == shapes(state)
    assert torch.equal(back["mlp.fc.weight"], state["mlp.fc.weight"])


def test_dropped_keys_are_reported_and_do_not_come_back() -> None:
    rules = [Rule("unused.{*}", None), Rule("w", "weight")]
    ours, unexpected, dropped = to_ours({"unused.a.b": torch.ones(1), "w": torch.ones(1)}, rules, {})
    assert (set(ours), unexpected, dropped) == ({"weight"}, [], ["unused.a.b"])
    assert set(to_theirs(ours, rules)) == {"w"}


def test_a_key_of_ours_without_a_rule_cannot_go_back() -> None:
    with pytest.raises(KeyError, match="no rule for our key 'other'"):
        to_theirs({"other": torch.ones(1)}, [Rule("w", "weight")])


# strict loading ---------------------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    def __init__(self, num_classes: int = 4, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stem = nn.Conv2d(in_channels, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


def test_full_coverage_loads_and_says_so() -> None:
    source, target = Tiny(), Tiny()
    report = load_state(target, source.state_dict())
    assert report.complete
    assert len(report.loaded) == len(source.state_dict())
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_a_count_of_batches_may_lack() -> None:
    state = {key: value for key, value in Tiny().state_dict().items() if "num_batches" not in key}
    assert load_state(Tiny(), state).complete


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("head.bias"), "missing in the file: head.bias"),
        (lambda state: state.update(extra=torch.ones(1)), "unexpected in the file: extra"),
        (
            lambda state: state.update({"head.bias": torch.ones(9)}),
            r"mis-shaped: head.bias is \(9,\) in the file, \(4,\) in the model",
        ),
    ],
)
def test_less_than_full_coverage_is_refused_and_nothing_is_loaded(change, expected: str) -> None:
    state = Tiny().state_dict()
    change(state)
    target = Tiny()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(LoadError, match=expected) as refused:
        load_state(target, state)
    assert not refused.value.report.complete
    assert "the weights do not fit Tiny: " in str(refused.value)
    assert "or strict=False to take what fits" in str(refused.value)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    report = load_state(target, state, strict=False)
    assert torch.equal(target.stem.weight, state["stem.weight"])
    assert str(report) in str(refused.value)


def test_the_report_is_a_table_by_part() -> None:
    report = LoadReport(
        loaded=["body.a", "body.b", "head.w"],
        missing=[f"body.{i}" for i in range(10)],
        unexpected=["theirs.x"],
        mismatched=[("head.b", (19,), (7,))],
    )
    lines = str(report).splitlines()
    assert lines[0].split() == ["part", "loaded", "missing", "mis-shaped", "unexpected"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:4]}
    assert rows == {
        "body": ["2", "10", "0", "0"],
        "head": ["1", "0", "1", "0"],
        "theirs": ["0", "0", "0", "1"],
    }
    assert "missing in the file: body.0, body.1, body.2, body.3, body.4, body.5, body.6, body.7 and 2 more" in lines


def test_replace_head_keeps_the_model_s_own_classifier() -> None:
    source, target = Tiny(19), Tiny(4)
    own = target.head.weight.clone()
    report = load_state(target, source.state_dict(), replace_head=True)
    assert [key for key, _, _ in report.mismatched] == ["head.weight", "head.bias"]
    assert torch.equal(target.head.weight, own)
    assert torch.equal(target.stem.weight, source.stem.weight)


def test_replace_head_does_not_excuse_another_trunk() -> None:
    state = Tiny().state_dict()
    state["stem.weight"] = torch.randn(6, 3, 5, 5)
    with pytest.raises(LoadError, match=r"mis-shaped: stem.weight"):
        load_state(Tiny(), state, replace_head=True)


# input channels ---------------------------------------------------------------------------------------------------------


def test_one_channel_is_the_sum() -> None:
    weight = torch.randn(5, 3, 3, 3)
    assert torch.equal(adapt_input_channels(weight, 1), weight.sum(1, keepdim=True))
    assert torch.equal(adapt_input_channels(weight, 3), weight)


def test_more_channels_are_cycled_and_rescaled() -> None:
    weight = torch.randn(5, 3, 3, 3)
    adapted = adapt_input_channels(weight, 4)
    assert torch.allclose(adapted, weight[:, [0, 1, 2, 0]] * 0.75)


@pytest.mark.parametrize("in_channels", [1, 2, 4, 6, 9])
def test_the_response_to_equal_channels_stays(in_channels: int) -> None:
    weight = torch.ones(5, 3, 3, 3) * torch.randn(5, 1, 3, 3)  # no preference for a channel: exact for any number
    grey = torch.randn(1, 1, 16, 16)
    before = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    after = nn.functional.conv2d(grey.expand(-1, in_channels, -1, -1), adapt_input_channels(weight, in_channels))
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("in_channels", [1, 6])
def test_the_response_of_any_weights_to_equal_channels_stays(in_channels: int) -> None:
    weight = torch.randn(5, 3, 3, 3)
    grey = torch.randn(1, 1, 16, 16)
    before = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    after = nn.functional.conv2d(grey.expand(-1, in_channels, -1, -1), adapt_input_channels(weight, in_channels))
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_a_model_of_other_channels_takes_the_weights_and_says_so(path: Path, in_channels: int) -> None:
    with pytest.warns(UserWarning, match="first convolution adapted to the input channels: stem.conv.weight"):
        made = create_model("pphumanseg", weights=str(path), in_channels=in_channels)
    stored, _ = read_file(path)
    assert torch.equal(made.stem.conv.weight, adapt_input_channels(stored["stem.conv.weight"], in_channels))
    assert made.num_classes == 3
    assert made.classes == ("void", "person", "bag")
    assert len(made.preprocessing.mean) == in_channels


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
    assert isinstance(load(file, strict=False), type(model))


def test_a_model_that_create_model_did_not_build_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Tiny was not built by create_model.*save its state_dict\(\) yourself"):
        save(Tiny(), tmp_path / "model.safetensors")
    made = create_model("segformer_b0", backbone=create_model("mit_b0"))
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

    def writes_half(_state: dict, target: Path, metadata: dict) -> None:
        Path(target).write_bytes(before[:1000])
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", writes_half)
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
def test_a_foreign_checkpoint_is_recognised(tmp_path: Path, theirs: dict, wrap, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "theirs.pth"
    torch.save(wrap(theirs), file)
    model = load(file)
    assert model.registered_name == "bisenetv2"
    assert model.num_classes == 4
    assert model.aggregation.upsample == "nearest"
    printed = capsys.readouterr().out
    assert "theirs.pth: bisenetv2, layout bisenetv2/coincheung" in printed
    assert "boosters" in printed
    load(file, verbose=False)
    assert capsys.readouterr().out == ""


def test_a_foreign_checkpoint_as_a_start_for_other_classes(tmp_path: Path, theirs: dict) -> None:
    file = tmp_path / "theirs.pth"
    torch.save(theirs, file)
    with pytest.warns(UserWarning, match="mis-shaped: head"):
        model = create_model("bisenetv2", weights=str(file), num_classes=7)
    assert model.num_classes == 7
    assert torch.equal(model.detail.stage1[0].conv.weight, theirs["detail.S1.0.conv.weight"])


def test_unknown_keys_name_the_known_layouts(tmp_path: Path) -> None:
    file = tmp_path / "theirs.pth"
    torch.save({"a.b": torch.ones(1), "c": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"no known layout has these keys \(a\.b, c, …\).*bisenetv2/coincheung"):
        load(file)
    with pytest.raises(
        KeyError, match=r"no layout is called 'bisenetv2/coinchueng'; did you mean 'bisenetv2/coincheung'"
    ):
        load(file, layout="bisenetv2/coinchueng")


def test_one_key_too_few_or_too_many_is_not_recognised(tmp_path: Path, theirs: dict) -> None:
    file = tmp_path / "theirs.pth"
    torch.save({**theirs, "extra": torch.ones(1)}, file)
    with pytest.raises(ValueError, match="no known layout"):
        load(file)
    with pytest.raises(LoadError, match="unexpected in the file: extra"):
        load(file, layout="bisenetv2/coincheung")
    fewer = {key: value for key, value in theirs.items() if key != "head.conv_out.1.bias"}
    torch.save(fewer, file)
    with pytest.raises(LoadError, match=r"missing in the file: head\.2\.bias"):
        load(file, layout="bisenetv2/coincheung")
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
