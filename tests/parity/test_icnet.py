"""ICNet against the outputs of the released network's port and of mmsegmentation's."""

from __future__ import annotations

import pytest
import torch

from segmentarium.layers.resize import resize
from segmentarium.realtime.icnet import SumPyramid, _spreading
from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import example, golden_state


def load(golden, name, layout_name, **arguments):
    state, description, arrays = golden_state(golden, f"realtime/{name}")
    layout = get_layout(layout_name)
    model = create_model(layout.model, **layout.arguments(state), **arguments).eval()
    report = load_state(model, state, rules=layout.rules, strict=True)
    assert report.complete
    assert len(report.loaded) + len(report.dropped) == len(state)
    image = example(golden, description, "x")
    # the release reads blue first, ours red first
    return model, state, image.flip(1) if layout_name == "icnet/caffe" else image, arrays


def assert_equal(golden, output, reference):
    assert golden.relative_error(output.numpy(), reference) <= 1e-4


@torch.inference_mode()
def test_the_cascade_with_windows_of_the_map_s_size(golden):
    model, _, image, arrays = load(golden, "icnet-caffe-small", "icnet/caffe")
    outputs = model.forward_train(image)
    assert_equal(golden, model(image)[..., ::2, ::2], arrays["out/logits_s2"])
    for name, reference in (("logits", "sub124_cls"), ("aux_8", "sub24_cls"), ("aux_16", "sub4_cls")):
        assert_equal(golden, outputs[name], arrays[f"out/{reference}"])


@torch.inference_mode()
def test_the_release_s_windows_at_full_size(golden):
    model, _, image, arrays = load(golden, "icnet-caffe-full", "icnet/caffe", windows="release")
    outputs = model.forward_train(image)
    logits = resize(outputs["logits"], image.shape[-2:], align_corners=True)
    assert_equal(golden, logits[..., ::16, ::16], arrays["out/logits_s16"])
    for name, reference, step in (("logits", "sub124_cls", 8), ("aux_8", "sub24_cls", 4), ("aux_16", "sub4_cls", 2)):
        assert_equal(golden, outputs[name][..., ::step, ::step], arrays[f"out/{reference}_s{step}"])


@torch.inference_mode()
def test_mmseg(golden):
    model, _, image, arrays = load(golden, "icnet-mmseg-r18", "icnet/mmseg")
    outputs = model.forward_train(image)
    for name, reference in (("logits", "logits"), ("aux_16", "aux0"), ("aux_8", "aux1")):
        assert_equal(golden, outputs[name], arrays[f"out/{reference}"])
    assert_equal(golden, model(image), resize(outputs["logits"], image.shape[-2:]).numpy())


@pytest.mark.parametrize(("name", "layout"), [("icnet-caffe-small", "icnet/caffe"), ("icnet-mmseg-r18", "icnet/mmseg")])
def test_recognised_and_reversible(golden, name, layout):
    model, state, *_ = load(golden, name, layout)
    assert recognise(state).name == layout
    back = export_layout(model, layout)
    unused = {key for key in state if key.startswith("pyramid_pooling.path_module_list.")}
    assert all(torch.equal(back[key], value) for key, value in state.items() if key not in unused)


def test_the_pyramid_as_one_matrix_for_each_axis():
    """What is exported equals what runs, maps smaller than the pyramid included."""
    generator = torch.Generator().manual_seed(0)
    for height, width in ((7, 9), (3, 5), (13, 1), (12, 18)):
        x = torch.randn(2, 4, height, width, generator=generator)
        out = x + x.mean((2, 3), keepdim=True)
        for bins in (2, 3, 6):
            out = out + _spreading(height, bins, x) @ x @ _spreading(width, bins, x).T
        torch.testing.assert_close(SumPyramid("size")(x), out)


def test_release_windows_want_the_release_s_size():
    with pytest.raises(ValueError, match="1025×2049"):
        SumPyramid("release").eval()(torch.randn(1, 4, 17, 33))


def test_cascade_label_guidance_scales_the_labels():
    model = create_model("icnet", num_classes=3)
    target = torch.zeros(1, 64, 64, dtype=torch.long)
    target[:, :, 32:] = 1
    target[:, :32] = 255
    outputs = {}
    for name, size in (("logits", 16), ("aux_8", 8), ("aux_16", 4)):
        logits = torch.zeros(1, 3, size, size)
        logits[:, 0, :, : size // 2] = logits[:, 1, :, size // 2 :] = 20.0
        logits[:, 2, : size // 2] = 90.0  # wrong where nothing is labelled
        outputs[name] = logits
    # at its own size every pixel is right; upsampled logits would be wrong along the border
    assert all(loss < 1e-6 for loss in model.criterion(outputs, {"mask": target}).values())
    uniform = {name: torch.zeros_like(logits) for name, logits in outputs.items()}
    losses = model.criterion(uniform, {"mask": target})
    assert losses["aux_8"] == pytest.approx(0.4 * float(losses["logits"]))
    assert losses["aux_16"] == pytest.approx(0.16 * float(losses["logits"]))
