"""Blocks put into trunks: where they stand, that nothing else moves, and that they live through copies, files and exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segmentarium
from segmentarium import registry
from segmentarium.backbones import create_backbone
from segmentarium.contracts import Backbone
from segmentarium.contracts.insertion import places
from segmentarium.layers.conv import ConvNormAct
from segmentarium.registry import create_model, insert_block, register_block
from segmentarium.training.optimizer import parameter_groups
from segmentarium.training.options import TrainingOptions
from segmentarium.weights import load_part
from segmentarium.weights.table import LoadError
from tests.parity.comparison import randomise, relative_error


class Gate(nn.Module):
    """A map times one plus what a 1×1 convolution with a batch norm sees of its mean."""

    def __init__(self, channels: int, squeeze: int = 2) -> None:
        super().__init__()
        self.squeeze = ConvNormAct(channels, squeeze, 1)
        self.expand = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.expand(self.squeeze(x.mean((2, 3), keepdim=True))))


class Zero(nn.Module):
    """Nothing passes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        return x * 0


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_BLOCKS", {})
    register_block("gate", Gate)


IMAGE = torch.linspace(-1, 1, 2 * 3 * 64 * 96).view(2, 3, 64, 96).sin()


def small(name: str, **arguments: Any) -> Any:
    return randomise(create_model(name, num_classes=4, **{**registry.entry(name).tiny, **arguments}))


@pytest.mark.parametrize(
    ("name", "arguments", "stage", "blocks"),
    [
        ("resnet18", {"width": 8}, 3, ["layer3.0", "layer3.1"]),
        ("resnet50", {"width": 8, "output_stride": 8}, 4, ["layer4.0", "layer4.1", "layer4.2"]),
        ("mobilenet_v2", {}, 3, ["stages.4.0", "stages.4.1", "stages.4.2"]),
        ("mit_b0", {}, 1, ["stages.1.blocks.0", "stages.1.blocks.1"]),
        ("mscan_t", {}, 3, ["stages.3.blocks.0", "stages.3.blocks.1"]),
        ("coc_tiny", {}, 0, ["stages.0.0", "stages.0.1", "stages.0.2"]),
        ("timm:resnet26", {}, 2, ["body.layer2.0", "body.layer2.1"]),
        ("timm:convnext_atto", {}, 1, ["body.stages.1.blocks.0", "body.stages.1.blocks.1"]),
        ("timm:mobilenetv3_small_050", {}, 3, [*(f"body.blocks.2.{i}" for i in range(3)), "body.blocks.3.0", "body.blocks.3.1"]),
        ("timm:hrnet_w18_small", {}, 2, ["body.incre_modules.1.0"]),
    ],
)  # fmt: skip
def test_the_blocks_of_a_stage_are_found(name: str, arguments: dict[str, Any], stage: int, blocks: list[str]) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name, **arguments)
    found = places(backbone, stage)
    assert [place.name for place in found] == blocks
    assert {place.channels for place in found} == {backbone.all_channels[stage]}


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "mit_b0", "mscan_t", "timm:convnext_atto", "timm:resnet18"]
)
def test_the_feature_is_what_the_last_block_gives(name: str) -> None:
    """So a block that lets nothing pass makes it zero, in whatever order the trunk keeps its dimensions; finer ones stay."""
    backbone = create_backbone(name).eval()
    keys = backbone.state_dict().keys()
    before = backbone(IMAGE[:1])
    insert_block(backbone, backbone.out_indices[2], Zero, at="last")
    after = backbone(IMAGE[:1])
    assert backbone.state_dict().keys() == keys
    assert all(torch.equal(a, b) for a, b in zip(before[:2], after[:2], strict=True))
    assert not torch.equal(before[2], after[2])
    if name not in ("mit_b0", "mscan_t"):  # which have a norm behind their blocks
        assert after[2].abs().max() == 0


@torch.no_grad()
def test_at_and_after_choose_the_place() -> None:
    model = small("resnet50", depths=(3, 4, 6, 3))
    trunk = set(model.state_dict())
    assert insert_block(model, 2, "gate", at="every", after="conv3") == [f"layer2.{i}.conv3" for i in range(4)]
    assert insert_block(model, 3, "gate", at=(-2,)) == ["layer3.4"]
    assert insert_block(model, 4, "gate", squeeze=3) == ["layer4.2"]
    new = set(model.state_dict()) - trunk
    assert trunk <= set(model.state_dict())
    assert {key.split(".")[2] for key in new} == {*(f"layer2_{i}_conv3" for i in range(4)), "layer3_4", "layer4_2"}
    assert all(key.startswith("backbone.inserted.") for key in new)
    assert model.state_dict()["backbone.inserted.layer4_2.squeeze.conv.weight"].shape[0] == 3


@torch.no_grad()
def test_behind_a_convolution_the_shortcut_joins_later() -> None:
    """With nothing of its convolutions left, a block gives its shortcut alone."""
    backbone = randomise(create_backbone("resnet18", width=8))
    assert isinstance(backbone, Backbone)
    insert_block(backbone, 3, Zero, at=1, after="conv2")
    x = torch.rand(1, 32, 6, 5)
    assert torch.equal(backbone.get_submodule("layer3.1")(x), x)


@torch.no_grad()
def test_deploy_folds_and_keeps_it() -> None:
    model = small("resnet18")
    insert_block(model, 3, "gate", at="every", after="conv2")
    insert_block(model, 4, "gate")
    randomise(model)
    expected = model(IMAGE)
    deployed = model.deploy()
    assert relative_error(deployed(IMAGE), expected) < 1e-5
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    with torch.no_grad():  # the copy runs through its own block, not through the original's
        deployed.backbone.inserted["layer4_1"].expand.weight.zero_()
    assert not torch.equal(deployed(IMAGE), expected)
    assert torch.equal(model(IMAGE), expected)


@torch.no_grad()
def test_behind_a_norm_that_is_folded_it_stays() -> None:
    model = randomise(create_model("timm:resnet18", num_classes=4))
    insert_block(model, 2, "gate", at="every", after="bn2")  # type: ignore[arg-type]
    insert_block(model, 3, "gate", after="conv1")  # type: ignore[arg-type]  # so that its norm follows no convolution
    randomise(model)
    assert relative_error(model.deploy()(IMAGE), model(IMAGE)) < 1e-4  # type: ignore[operator]


def test_a_block_that_deploy_would_lose_is_an_error() -> None:
    model = small("mscan_t")
    insert_block(model, 2, Zero, after="norm1")
    with pytest.raises(ValueError, match="a module that deploy\\(\\) takes away"):
        model.deploy()


@torch.no_grad()
def test_files_rebuild_it(tmp_path: Path) -> None:
    model = small("resnet18", insertions=[{"stage": 2, "block": "gate", "at": "every", "squeeze": 3}])
    insert_block(model, 4, "gate", at=(0,))
    path = segmentarium.save(model, tmp_path / "classifier.safetensors")
    again: Any = segmentarium.load(path)
    assert torch.equal(again(IMAGE), model(IMAGE))
    assert sorted(again.backbone.inserted) == ["layer2_0", "layer2_1", "layer4_0"]

    segmenter: Any = create_model("fcn", num_classes=3, backbone="resnet18", backbone_arguments={"width": 16},
                                  insertions=[{"stage": 2, "block": "gate", "at": "every", "squeeze": 3}])  # fmt: skip
    with pytest.raises(LoadError, match=r"unexpected in the file: backbone\.inserted\.layer4_0"):
        load_part(segmenter, "backbone", path)  # a trunk that learnt with a block is another without it
    insert_block(segmenter, 4, "gate", at=(0,))
    assert "backbone.inserted.layer4_0.expand.weight" in load_part(segmenter, "backbone", path).loaded
    saved = segmentarium.save(segmenter, tmp_path / "segmenter.safetensors")
    assert torch.equal(segmentarium.load(saved)(IMAGE), segmenter.eval()(IMAGE))

    insert_block(segmenter, 3, lambda channels: Gate(channels))
    with pytest.raises(ValueError, match="a block in its backbone that has no name"):
        segmentarium.save(segmenter, tmp_path / "nameless.safetensors")


@torch.no_grad()
def test_new_blocks_start_new_under_pretrained_weights(tmp_path: Path) -> None:
    path = segmentarium.save(small("resnet18"), tmp_path / "plain.safetensors")
    told = [{"stage": 3, "block": "gate"}]
    model = create_model("fcn", num_classes=3, backbone="resnet18", backbone_arguments={"width": 16},
                         insertions=told, backbone_weights=path)  # fmt: skip
    assert "backbone.inserted.layer3_1.expand.weight" in model.state_dict()


def test_it_learns_and_stands_as_deep_as_its_place() -> None:
    model = small("mobilenet_v2").train()
    insert_block(model, 3, "gate", at="every")
    model(IMAGE).square().mean().backward()
    new = [parameter for key, parameter in model.named_parameters() if ".inserted." in key]
    assert new
    assert all(parameter.grad is not None for parameter in new)
    backbone = model.backbone
    assert backbone.depth_of("inserted.stages_4_1.expand.weight") == backbone.layer_of("stages.4.1.project.conv.weight")
    groups = parameter_groups(model, TrainingOptions(model="mobilenet_v2", layer_decay=0.5))
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@torch.no_grad()
def test_it_exports_and_compiles() -> None:
    model = small("coc_tiny")
    insert_block(model, 2, "gate")
    program = torch.export.export(model.deploy(), (IMAGE,))
    assert relative_error(program.module()(IMAGE), model(IMAGE)) < 1e-4
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert relative_error(compiled(IMAGE), model(IMAGE)) < 1e-5


def test_wrong_places_are_answered() -> None:
    backbone = create_backbone("resnet18", width=8)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"stage": 5}, r"stage is 5; ResNet has the features 0 to 4, of strides 2, 4, 8, 16, 32"),
        ({"stage": 0}, r"ResNet has no blocks that give maps of 8 channels at stride 2"),
        ({"stage": 3, "at": (2,)}, r"at is \(2,\); the stage has the blocks 0 to 1"),
        ({"stage": 3, "at": "all"}, r'at is \'all\'; give "every", "last"'),
        ({"stage": 3, "after": "conv3"}, r"after is 'conv3'.*theirs: conv1, conv2, shortcut"),
    )
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            insert_block(backbone, block=Zero, **arguments)
    insert_block(backbone, 3, Zero)
    with pytest.raises(ValueError, match=r"a block stands behind layer3.1 already"):
        insert_block(backbone, 3, Zero)
    with pytest.raises(KeyError, match="no block is called 'gat'; did you mean 'gate'"):
        insert_block(backbone, 2, "gat")
    with pytest.raises(ValueError, match=r"no blocks that give maps .*a plain transformer's give tokens"):
        insert_block(create_backbone("timm:test_vit"), 0, Zero)
    with pytest.raises(ValueError, match="ENet has no backbone"):
        insert_block(create_model("enet", num_classes=2), 0, Zero)
