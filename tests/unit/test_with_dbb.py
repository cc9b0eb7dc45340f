"""Diverse Branch Blocks in place of convolutions of any network: the same function at the start, one convolution in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segmentarium
from segmentarium.backbones import create_backbone
from segmentarium.contracts import LabelledModel
from segmentarium.layers.depthwise import DepthwiseConv2d
from segmentarium.layers.fusion import reparameterize
from segmentarium.registry import create_model, entry
from segmentarium.reparameterize import DiverseBranch, with_dbb
from tests.conformance.subjects import batch_for, inputs, losses_of
from tests.parity.comparison import randomise
from tests.parity.comparison import relative_error as error_of


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return error_of(ours.detach(), theirs.detach())


# one convolution ------------------------------------------------------------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "3×3": {"kernel_size": 3, "padding": 1},
    "strided 5×5": {"kernel_size": 5, "padding": 2, "stride": 2},
    "7×7 with a bias": {"kernel_size": 7, "padding": 3, "bias": True},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "dilated one way": {"kernel_size": (3, 1), "padding": (4, 0), "dilation": (4, 1), "bias": True},
    "1×3": {"kernel_size": (1, 3), "padding": (0, 1)},
    "without padding": {"kernel_size": 3, "stride": 2},
    "padded by more than half": {"kernel_size": 3, "padding": 3},
    "patches": {"kernel_size": 4, "stride": 4, "bias": True},
    "even, padded": {"kernel_size": 2, "padding": 1, "stride": 2},
    "even, same": {"kernel_size": 4, "padding": "same"},
    "reflected": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}
WIDTHS = {"full": (8, 12, 1), "grouped": (8, 12, 4), "depthwise": (8, 8, 8), "multiplied": (4, 8, 4)}


def stirred(module: nn.Module) -> nn.Module:
    """Every branch counts, and the norms' statistics are those of a few steps."""
    for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -1, 1)
    return module


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_block_starts_as_its_convolution_and_folds_into_one(shape: str, width: str) -> None:
    inputs, outputs, groups = WIDTHS[width]
    conv = nn.Conv2d(inputs, outputs, groups=groups, **{"bias": False, **SHAPES[shape]})
    network = nn.Sequential(conv)
    image = torch.randn(2, inputs, 13, 16)
    expected = conv(image)
    with_dbb(network)
    block = network.eval()[0]
    assert isinstance(block, DiverseBranch)
    assert relative_error(network(image), expected) < 1e-5
    stirred(network).train()
    for _ in range(3):
        network(torch.randn(4, inputs, 13, 16)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []
    trained = network.eval()(image)
    assert relative_error(trained, expected) > 0.1
    reparameterize(network)
    assert type(network[0]) is nn.Conv2d
    assert network[0].weight.shape == conv.weight.shape
    assert relative_error(network(image), trained) < 1e-5


def test_the_border_is_what_the_norms_make_of_zeros() -> None:
    """A block that pads its normalised maps with zeros cannot be folded."""
    block = stirred(DiverseBranch(nn.Conv2d(4, 4, 3, padding=1))).eval()
    assert isinstance(block, DiverseBranch)
    zeros = torch.zeros(1, 4, 6, 6)
    assert torch.allclose(block(zeros), block.kernel_and_bias()[1].view(1, -1, 1, 1).expand(-1, -1, 6, 6), atol=1e-5)


def test_depthwise_blocks_are_twice_as_wide_inside_and_have_no_pointwise_branch() -> None:
    block = DiverseBranch(nn.Conv2d(6, 6, 3, padding=1, groups=6))
    assert block.chain_conv.in_channels == 12
    assert not hasattr(block, "point")
    assert not hasattr(block, "average_conv")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_average_is_dilated_too(dtype: torch.dtype) -> None:
    block = DiverseBranch(nn.Conv2d(1, 1, 3, padding=4, dilation=4, dtype=dtype))
    point = torch.zeros(1, 1, 17, 17, dtype=dtype)
    point[0, 0, 8, 8] = 9
    averaged = block._average(point, (4, 4))
    assert averaged.dtype == dtype
    assert averaged.nonzero()[:, 2:].tolist() == [[y, x] for y in (4, 8, 12) for x in (4, 8, 12)]


@pytest.mark.parametrize("dilation", [1, 2])
def test_half_precision_is_near(dilation: int) -> None:
    block = stirred(DiverseBranch(nn.Conv2d(8, 8, 3, padding=dilation, dilation=dilation)))
    image = torch.randn(4, 8, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(image)
    half.float().sum().backward()
    assert relative_error(half.float(), block(image)) < 0.05


# which are replaced ---------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.point = nn.Conv2d(4, 4, 1)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.shared
        self.tied, self.tie = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.tie.weight = self.tied.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.depthwise = DepthwiseConv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.shared(self.point(self.norm(self.first(x)))))
        return self.depthwise(self.up(self.normed(self.tie(self.tied(x)))))


def test_what_is_left_alone_is_said_with_the_reason() -> None:
    network = randomise(Mixed())
    image = torch.randn(2, 3, 8, 8)
    expected = network(image)
    done = with_dbb(network)
    assert done.replaced == ("first", "depthwise")
    assert {name: why.split(",")[0] for name, why in done.left.items()} == {
        "shared": "it serves in several places",
        "tied": "it shares its weights with another",
        "tie": "it shares its weights with another",
        "normed": "a ParametrizedConv2d",
        "up": "a transposed convolution",
    }
    assert str(done).splitlines()[0] == "Diverse Branch Blocks in place of 2 of 7 k×k convolutions"
    assert "left alone: tied, tie: it shares its weights with another" in str(done).splitlines()
    assert relative_error(network(image), expected) < 1e-5
    assert with_dbb(network).replaced == ()  # what has blocks keeps them
    reparameterize(network)
    assert type(network.get_submodule("depthwise")) is DepthwiseConv2d


def test_a_trained_norm_behind_the_convolution_stays_right_in_training() -> None:
    """The block gives its outputs the mean and spread that the norm has seen, so that its statistics stay true."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=None))
    image = 5 + 3 * torch.randn(16, 3, 12, 12)
    network(image)
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    seen = norm.running_mean.clone()
    with_dbb(network)
    given = network.train()[0](image)
    assert torch.allclose(given.mean((0, 2, 3)), seen, rtol=1e-2, atol=1e-2)


def test_patterns_choose_and_a_network_without_kernels_is_refused() -> None:
    model = create_model("fcn_resnet50", num_classes=3, **entry("fcn_resnet50").tiny_arguments())
    assert set(with_dbb(model, "decoder.*").replaced) == {
        "decoder.convs.0.conv",
        "decoder.convs.1.conv",
        "decoder.concatenate.conv",
    }
    assert model.given_arguments["dbb"] == "decoder.*"
    more = with_dbb(model, "backbone.stem.*").replaced
    assert model.given_arguments["dbb"] == "decoder.*,backbone.stem.*"
    assert more == ("backbone.stem.0.conv", "backbone.stem.1.conv", "backbone.stem.2.conv")
    with pytest.raises(ValueError, match=r"no k×k convolution that a block can replace"):
        with_dbb(nn.Sequential(nn.Conv2d(3, 3, 1)))
    with pytest.raises(ValueError, match=r"dbb is 3; give True"):
        create_model("df1", dbb=3)


# networks -------------------------------------------------------------------------------------------------------------------

NETWORKS: dict[str, dict[str, Any]] = {
    "fcn_resnet50": {"backbone": "resnet18", "backbone_arguments": {"width": 8}},  # dilated
    "mobilenet_v2_050": {},  # depthwise
    "timm:convnext_atto": {},  # 7×7 with biases and without norms, 4×4 and 2×2 patches
    "erfnet": {},  # 3×1 and 1×3, dilated, transposed convolutions
    "cgnet_m3n15": {},  # two convolutions share a norm
    "swiftnet_mobilenet_v2": {},  # norms before convolutions; what folds, folds on
    "timm:tf_efficientnet_lite0": {},  # borders by the size of the map
}


def trained(name: str, **arguments: Any) -> LabelledModel:
    """With blocks, after steps on four views of a photograph."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, dbb=True, **arguments)
    assert isinstance(model, LabelledModel)
    optimizer = torch.optim.SGD(model.train().parameters(), 0.01)
    batch = batch_for(model, 64, 64, 2)
    for _ in range(2):
        torch.stack(list(losses_of(model, batch).values())).sum().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_trains_with_blocks_and_deploys_without(name: str, tmp_path: Path) -> None:
    model = trained(name, **NETWORKS[name])
    blocks = [part for part in model.modules() if isinstance(part, DiverseBranch)]
    assert len(blocks) > 8
    moved = [block for block in blocks if block.average_norm.weight.abs().max() > 0]
    assert len(moved) == len(blocks)
    image = inputs(model, 64, 96)
    deployed = model.deploy()
    with torch.no_grad():
        assert relative_error(deployed(image), model(image)) < 1e-4
    assert not any(isinstance(part, DiverseBranch) for part in deployed.modules())
    plain = create_model(name, num_classes=3, **NETWORKS[name]).deploy()
    counts = [sum(p.numel() for p in network.parameters()) for network in (deployed, plain)]
    # the biases of two convolutions behind which SwiftNet has no norm
    assert counts[0] == counts[1] + (256 if name == "swiftnet_mobilenet_v2" else 0)
    again = segmentarium.load(segmentarium.save(model, tmp_path / "model.safetensors"))
    assert again.given_arguments["dbb"] is True
    with torch.no_grad():
        assert torch.equal(again(image), model(image))


def test_a_plain_network_s_weights_start_one_with_blocks(tmp_path: Path) -> None:
    plain = randomise(create_model("pphumanseg", num_classes=2))
    path = segmentarium.save(plain, tmp_path / "plain.safetensors")  # type: ignore[arg-type]
    model = create_model("pphumanseg", weights=path, dbb=True).eval()
    image = inputs(model, 64, 96)
    assert any(isinstance(part, DiverseBranch) for part in model.modules())
    with torch.no_grad():
        assert relative_error(model(image), plain(image)) < 1e-5
    own = segmentarium.save(model, tmp_path / "blocks.safetensors")
    assert create_model("pphumanseg", weights=own).given_arguments["dbb"] is True


def test_a_classifier_s_blocks_go_into_a_segmenter_s_backbone(tmp_path: Path) -> None:
    classifier = trained("resnet18", width=8)
    path = segmentarium.save(classifier, tmp_path / "classifier.safetensors")
    arguments = {"backbone": "resnet18", "backbone_arguments": {"width": 8, "dbb": True}, "num_classes": 3}
    model = create_model("fcn_resnet50", backbone_weights=path, output_stride=32, **arguments).eval()
    image = inputs(classifier, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(model.backbone(image), classifier.backbone(image), strict=True):
            assert torch.equal(ours, theirs)


def test_layers_keep_their_depths() -> None:
    """So that layer-wise learning rates know where a block stands: in timm's networks by the weight that it replaced."""
    for name in ("resnet18", "timm:convnext_atto"):
        plain, blocks = create_backbone(name), create_backbone(name, dbb=True)
        depth = {key: plain.layer_of(key) for key, _ in plain.named_parameters()}
        for key, _ in blocks.named_parameters():
            if key.endswith(".origin.weight"):
                assert blocks.layer_of(key) == depth[key.replace(".origin.weight", ".weight")]
            assert 0 <= blocks.layer_of(key) <= plain.num_layers


def test_training_by_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="training needs the extra [train]")
    import argparse

    from segmentarium.cli.train import add_training_options, given_options
    from segmentarium.training import train
    from tests.unit.training_material import labelled_folder, quick_options

    parser = argparse.ArgumentParser()
    add_training_options(parser)
    given = given_options(parser.parse_args(["--set", "dbb=true"]))
    assert given == {"model_arguments": {"dbb": True}}
    root = labelled_folder(tmp_path / "data", number=2)
    options = quick_options(root, tmp_path / "run", max_steps=2, val_every=2, images_every=0, batch_size=2, **given)
    model = segmentarium.load(train(options).best_weights)
    assert model.given_arguments["dbb"] is True
    assert any(isinstance(part, DiverseBranch) for part in model.modules())
