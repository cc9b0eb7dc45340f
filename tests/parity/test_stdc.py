"""STDC's detail loss against the authors' code.  Stored outputs of its networks: test_layouts.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segmentarium.backbones import create_backbone
from segmentarium.losses import DetailLoss
from segmentarium.losses.detail import detail_maps
from segmentarium.registry import create_model
from segmentarium.training.objective import replace_loss
from segmentarium.weights import export_layout, load
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import to_theirs
from tests.conformance.subjects import brightness_target, inputs
from tests.parity.comparison import TOLERANCE, as_theirs, example, exercised, golden_state, randomise, recognised


def assert_equal(golden, output, reference):
    assert golden.relative_error(output.numpy(), reference) <= TOLERANCE


def test_the_second_names_of_published_checkpoints_are_dropped(golden):
    state, _, _ = golden_state(golden, "realtime/stdc1-seg")
    first = "cp.backbone.features."
    twice = state | {
        key.replace(first, "cp.backbone.x32.0."): value for key, value in state.items() if key.startswith(first)
    }
    assert len(twice) > len(state)
    assert recognise(twice).name == "stdc/authors"


@pytest.mark.parametrize("name", ["stdc-detail-loss", "stdc-detail-loss-fullsize"])
def test_detail_loss(golden, name):
    description, arrays = golden.load(f"realtime/{name}")
    logits = example(golden, description, "logits").requires_grad_()
    labels = torch.from_numpy(arrays["target/gtmasks"])
    assert (labels == 255).any()
    loss = DetailLoss(ignore_index=None)
    maps = detail_maps(labels, None).float()
    for index, step in enumerate((1, 2, 4)):
        assert torch.equal(maps[:, index : index + 1], torch.from_numpy(arrays[f"out/b{step}"]))
    assert torch.equal(loss.detail_target(labels), torch.from_numpy(arrays["out/detail_target"]))
    entropy, dice = loss.terms(logits, labels)
    assert_equal(golden, entropy.detach(), arrays["out/bce"])
    assert_equal(golden, dice.detach(), arrays["out/dice"])
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    assert_equal(golden, gradient, arrays["out/grad_logits"])


def test_ignored_pixels_make_no_detail(golden):
    _, arrays = golden.load("realtime/stdc-detail-loss")
    labels = torch.from_numpy(arrays["target/gtmasks"])
    plain = labels.where(labels != 255, 0)
    assert torch.equal(detail_maps(plain), detail_maps(plain, None))  # the authors' maps where nothing is ignored

    ignored = torch.zeros_like(labels, dtype=torch.bool)
    ignored[:, 10:30, 20:50] = True
    uniform = torch.ones_like(labels).masked_fill(ignored, 255)
    inside = detail_maps(uniform)[..., 8:-8, 8:-8]
    assert not inside.any()  # between a class and ignored pixels there is no border
    assert detail_maps(uniform, None)[..., 8:-8, 8:-8].any()

    logits = torch.randn(2, 1, *labels.shape[-2:])
    changed = logits.masked_fill(ignored[:, None], 9.0)
    target = plain.masked_fill(ignored, 255)
    assert torch.equal(DetailLoss()(changed, target), DetailLoss()(logits, target))


def test_each_detail_stride_is_trained_and_gone_in_deploy():
    model = create_model("stdc1", num_classes=3, detail_strides=(2, 4, 8, 16))
    assert {"detail_2", "detail_4", "detail_8", "detail_16"} < {term.name for term in model.objective}
    image, target = torch.randn(2, 3, 65, 97), torch.randint(0, 3, (2, 65, 97))
    outputs = model.forward_train(image)
    for stride in (2, 4, 8, 16):
        assert outputs[f"detail_{stride}"].shape == (2, 1, -(-65 // stride), -(-97 // stride))
    losses = model.criterion(outputs, {"mask": target})
    torch.stack(list(losses.values())).sum().backward()
    assert all(head[1].weight.grad.abs().sum() > 0 for head in model.detail.values())
    assert not hasattr(model.deploy(), "detail")
    model.set_class_weights(torch.tensor([1.0, 2.0, 3.0]))  # leaves the detail loss alone
    assert not hasattr(model.losses["detail_8"], "class_weight")


def test_without_the_choice_of_hard_pixels_the_loss_halves():
    """What the card says of the conformance suite's learning check, whose mean over hard pixels cannot fall by half."""
    model = create_model("stdc1", num_classes=4)
    replace_loss(model, "cross_entropy")
    image, target = inputs(model, 128, 128, 2), brightness_target(128, 128, 4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(60):
        loss = torch.stack(list(model.criterion(model.forward_train(image), {"mask": target}).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
        if history[-1] <= history[0] / 2:
            break
    else:
        pytest.fail(f"not halved: {history}")


DETAIL = {"auxiliary_head.2.conv_seg.weight": (2, 64, 1, 1), "auxiliary_head.2.laplacian_kernel": (1, 1, 3, 3)}


@pytest.mark.parametrize("size", [1, 2])
def test_mmsegmentation_s_networks(size):
    """Without its detail head, which has two outputs; the other size's table does not fit."""
    told = {"head_bias": True, "detail_strides": ()}
    as_theirs(f"stdc/mmseg_stdc{size}", f"stdc{size}", DETAIL, num_classes=5, **told)


def test_the_last_convolution_and_more_detail_are_loaded_where_one_says_so(tmp_path, caplog):
    """`use_conv_last` and three detail heads: the file is the same as without, so that it has to be told."""
    told = {"final_conv": True, "detail_strides": (2, 4, 8)}
    made = exercised(randomise(create_model("stdc1", num_classes=3, **told)))
    state = export_layout(made, "stdc/authors")
    # what their code builds beside it
    unused = [f"conv_out_sp16.{key}" for key in ("conv.conv.weight", "conv_out.weight")]
    state |= {key: torch.ones(1) for key in (*unused, "cp.backbone.fc.weight", "cp.backbone.linear.weight")}
    path = tmp_path / "own.pth"
    torch.save(state, path)
    image = torch.randn(1, 3, 64, 96)
    with caplog.at_level("WARNING", "segmentarium"), torch.inference_mode():
        plain = load(path)
        assert "final_conv=False" in caplog.text
        assert "detail_strides=(8,)" in caplog.text
        loaded = load(path, **told)
        assert {term.name for term in loaded.objective} == {term.name for term in made.objective}
        for name, output in loaded.forward_train(image).items():
            torch.testing.assert_close(output, made.forward_train(image)[name])

        # by the code: ImageNet's 1×1 convolution with its norm and a ReLU, before the context path
        _, x8, x16, x32 = plain.backbone(image)
        last = "cp.backbone.conv_last"
        statistics = (state[f"{last}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x32 = F.batch_norm(F.conv2d(x32, state[f"{last}.conv.weight"]), *statistics).relu()
        fused = plain.fusion(x8, plain.context(x16, x32, x8.shape[-2:])[0])
        torch.testing.assert_close(loaded.logits(image), plain.head(fused))
        assert not torch.allclose(loaded.logits(image), plain.logits(image), rtol=0.01)
    assert "final_conv" not in {name.partition(".")[0] for name in plain.state_dict()}


def test_mmsegmentation_s_backbone():
    trunk = create_backbone("stdcnet2")
    state = to_theirs(trunk.state_dict(), get_layout("stdcnet/mmseg_stdc2").rules)
    assert {"stages.0.conv.weight", "stages.2.0.downsample.bn.bias", "stages.4.2.layers.3.bn.weight"} <= state.keys()
    again = recognised(state, "stdcnet/mmseg_stdc2")
    assert all(torch.equal(value, trunk.state_dict()[key]) for key, value in again.state_dict().items())


def test_modules_that_add():
    """The code's `AddBottleneck`, written out: the whole concatenation, its first part behind the strided depthwise convolution,
    and the input, at stride 2 by a depthwise and a 1×1 convolution."""
    trunk = exercised(randomise(create_backbone("stdcnet1", fusion="add", out_indices=(0, 1, 2, 3, 4), num_classes=4)))
    state = export_layout(trunk, "stdcnet/authors")
    again = recognised(state | {"bn.weight": torch.ones(1)}, "stdcnet/authors", out_indices=(0, 1, 2, 3, 4))

    def conv(x, name, norm, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
        return F.batch_norm(x, *(state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    def shrunk(x, name, at=0):
        return conv(x, f"{name}.{at}", f"{name}.{at + 1}", 2, x.shape[1])

    def module(x, name, stride):
        parts, y = [], x
        for index in range(4):
            convolution = f"{name}.conv_list.{index}"
            y = conv(y, f"{convolution}.conv", f"{convolution}.bn").relu()
            if index == 0 and stride == 2:
                y = shrunk(y, f"{name}.avd_layer")
            parts.append(y)
        if stride == 2:
            x = conv(shrunk(x, f"{name}.skip"), f"{name}.skip.2", f"{name}.skip.3")
        return torch.cat(parts, 1) + x

    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        features = again(image)
        for stage, feature in enumerate(features[2:]):
            first = f"features.{2 + 2 * stage}"
            expected = module(module(features[1 + stage], first, 2), f"features.{3 + 2 * stage}", 1)
            assert float((feature - expected).abs().max() / expected.abs().max()) <= TOLERANCE
    as_theirs("stdc/authors", "stdc1", backbone_arguments={"fusion": "add"})
