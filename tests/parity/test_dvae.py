"""DALL-E's dVAE against the authors' stored outputs and, live, FLAVA's codebook; their pickled modules."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from segmentarium.registry import create_model
from segmentarium.weights import CheckpointError, load, load_part, read_file
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, golden_state, relative_error


def carried_over(state: dict[str, Tensor], name: str) -> Any:
    layout = recognise(state)
    assert layout.name == name
    ours = create_model(layout.model, **layout.arguments(state)).eval()
    assert load_state(ours, state, rules=layout.rules).complete
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in back)
    return ours


@torch.inference_mode()
def test_the_encoder_equals_the_authors(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "backbone/dalle-encoder-tiny")
    ours = carried_over(state, "dvae/encoder")
    assert sum(p.numel() for p in ours.parameters()) == description["parameters"]
    image = ours.preprocessing.normalise(example(golden, description, "x").sigmoid())
    assert relative_error(ours(image), torch.from_numpy(arrays["out/logits"])) <= TOLERANCE
    assert torch.equal(ours.tokens(image).float(), torch.from_numpy(arrays["out/tokens"]))
    assert torch.equal(ours.deploy()(image), ours(image))


@torch.inference_mode()
def test_the_decoder_equals_the_authors(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "backbone/dalle-decoder-tiny")
    ours = carried_over(state, "dvae/decoder")
    assert sum(p.numel() for p in ours.parameters()) == description["parameters"]
    tokens = example(golden, description, "x").argmax(1)
    assert relative_error(ours(tokens), torch.from_numpy(arrays["out/stats"])) <= TOLERANCE
    assert relative_error(ours.decode(tokens), torch.from_numpy(arrays["out/image"])) <= TOLERANCE


def test_the_encoder_equals_flava_s_codebook_to_the_gradients(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.FlavaImageCodebookConfig(num_blocks_per_group=2, hidden_size=16, vocab_size=40, freeze=False)
    theirs = transformers.FlavaImageCodebook(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=(parameter[0].numel() if parameter.ndim > 1 else 25) ** -0.5)
    theirs.save_pretrained(tmp_path)
    ours = carried_over(load_file(tmp_path / "model.safetensors"), "dvae/flava")
    image = torch.rand(2, 3, 48, 64) * 0.8 + 0.1
    reference = theirs.blocks(image)
    assert relative_error(ours(image), reference) <= TOLERANCE
    assert torch.equal(ours.tokens(image), theirs.get_codebook_indices(image))
    reference.square().mean().backward()
    ours(image).square().mean().backward()
    mine = to_theirs({key: p.grad for key, p in ours.named_parameters()}, get_layout("dvae/flava").rules)
    assert all(relative_error(mine[key], p.grad) <= TOLERANCE for key, p in theirs.named_parameters())


def test_published_sizes_are_recognised() -> None:
    for name in ("dvae_encoder", "dvae_decoder"):
        layout = get_layout(f"dvae/{name.removeprefix('dvae_')}")
        with torch.device("meta"):
            state = to_theirs(create_model(name).state_dict(), layout.rules)
        assert recognise(state) is layout
        said = {"width": 256, "blocks": 2, "vocabulary": 8192, "in_channels": 3}
        assert layout.arguments(state).items() >= said.items()


# whole modules, as they were published -----------------------------------------------------------------------------------


def _module(parameters: dict[str, Tensor], children: dict[str, nn.Module], kind: type[nn.Module]) -> nn.Module:
    made = kind()
    for name, value in parameters.items():
        made.register_parameter(name, nn.Parameter(value, requires_grad=False))
    for name, child in children.items():
        made.add_module(name, child)
    return made


def _tree(state: dict[str, Tensor], kinds: dict[str, type[nn.Module]], depth: int = 0) -> nn.Module:
    """Modules within modules, as the keys say, of the published classes."""
    own = {key: value for key, value in state.items() if "." not in key}
    names = dict.fromkeys(key.partition(".")[0] for key in state if "." in key)
    children = {
        name: _tree(
            {key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{name}.")},
            kinds,
            depth + 1,
        )
        for name in names
    }
    kind = (
        kinds["Conv2d"]
        if own
        else kinds["Whole"]
        if not depth
        else kinds["Block"]
        if "res_path" in names
        else nn.Sequential
    )
    made = _module(own, children, kind)
    made.n_in, made.device = 3, torch.device("cpu")  # attributes that theirs have
    if kind is kinds["Block"]:
        made.add_module("relu", nn.ReLU())
        made.add_module("pool", nn.MaxPool2d(2))
    return made


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[nn.Module]]:
    """Classes under the names that DALL-E's package gives them; gone again when the file is read."""
    kinds: dict[str, type[nn.Module]] = {}
    monkeypatch.setitem(sys.modules, "dall_e", ModuleType("dall_e"))
    for module, names in {"encoder": ("Encoder", "EncoderBlock"), "utils": ("Conv2d",)}.items():
        made = ModuleType(f"dall_e.{module}")
        for name in names:
            kind = type(name, (nn.Module,), {"__module__": made.__name__, "__qualname__": name})
            setattr(made, name, kind)
            kinds[{"Encoder": "Whole", "EncoderBlock": "Block"}.get(name, name)] = kind
        monkeypatch.setitem(sys.modules, made.__name__, made)
    return kinds


def test_a_pickled_module_is_read_without_its_classes(
    tmp_path: Path, golden: ModuleType, published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, _, _ = golden_state(golden, "backbone/dalle-encoder-tiny")
    path = tmp_path / "encoder.pkl"
    torch.save(_tree(state, published), path)
    torch.save(_tree(state, published), tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    for module in [name for name in sys.modules if name.startswith("dall_e")]:
        monkeypatch.delitem(sys.modules, module)
    read, header = read_file(path)
    assert header is None
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in read)
    assert not any(name.startswith("dall_e") for name in sys.modules)
    with pytest.raises(CheckpointError, match="holds more than tensors"):  # PyTorch's way before 1.6
        read_file(tmp_path / "old.pkl")
    alone: Any = load(path)
    both: Any = create_model("dvae", width=64, blocks=2, vocabulary=512)
    assert load_part(both, "encoder", path).complete
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(both.tokens(image), alone.tokens(image))


class Calls:
    """A pickle that would call something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("called",))


def test_a_module_with_a_program_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = nn.Sequential(nn.ReLU())
    layer.told = Calls()  # type: ignore[assignment]
    torch.save(layer, tmp_path / "calls.pkl")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_file(tmp_path / "calls.pkl")
    assert capsys.readouterr().out == ""
    ring = nn.Sequential(nn.ReLU())
    ring._modules["0"] = ring
    torch.save(ring, tmp_path / "ring.pkl")
    with pytest.raises(CheckpointError):
        read_file(tmp_path / "ring.pkl")
    torch.save(nn.Sequential(nn.ReLU()), tmp_path / "empty.pkl")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_file(tmp_path / "empty.pkl")


def test_a_picture_goes_through_both(golden: ModuleType) -> None:
    """Encoder and decoder of two files, together: what the decoder says of the encoder's words."""
    encoder, description, _ = golden_state(golden, "backbone/dalle-encoder-tiny")
    both: Any = create_model("dvae", width=64, blocks=2, vocabulary=512).eval()
    load_part(both, "encoder", encoder)
    image = both.preprocessing.normalise(example(golden, description, "x").sigmoid())
    stats = both(image)
    words = F.one_hot(both.tokens(image), 512).permute(0, 3, 1, 2).float()
    assert torch.equal(stats, both.decoder(words))
