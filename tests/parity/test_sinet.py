"""SINet against the outputs and losses of the authors' code, with made and with their trained weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import segmentarium
from segmentarium.losses import CrossEntropy, Lovasz
from segmentarium.losses.boundary_band import OnBoundary, boundary_band
from segmentarium.portrait.sinet_street import LEVEL3, LEVEL4
from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from tests.parity.comparison import as_theirs, exercised, randomise, relative_error


def test_losses_and_gradients_equal_the_authors(golden):
    description, arrays = golden.load("portrait/sinet-loss")
    logits = torch.from_numpy(golden.example_input("logits", tuple(description["inputs"]["logits"]))).requires_grad_()
    mask, edge = (torch.from_numpy(arrays[f"target/{name}"]) for name in ("mask", "edge"))
    size = 5 if torch.equal(boundary_band(mask, 5), edge != 255) else 15
    assert torch.equal(boundary_band(mask, size), edge != 255)
    for name, loss, given in (("ce", CrossEntropy(), logits), ("lovasz", Lovasz(), logits[:, 1:])):
        whole, band = loss(given, mask), 0.5 * OnBoundary(loss, size)(given, mask)
        found = {name: whole, f"{name}_edge": band, f"{name}_total": whole + band}
        for key, value in found.items():
            assert golden.relative_error(value.detach().numpy(), arrays[f"out/{key}"]) <= 1e-4
        (gradient,) = torch.autograd.grad(whole + band, logits)
        assert golden.relative_error(gradient.numpy(), arrays[f"grad/{name}_total/logits"]) <= 1e-4


def test_the_published_checkpoint_gives_the_authors_mask(golden, shared, caplog):
    _, arrays = golden.load("portrait/sinet-trained")
    caplog.set_level("INFO", "segmentarium")
    model = segmentarium.load(shared / "checkpoints" / "sinet_eg1800.pth")
    assert "layout sinet/clovaai" in caplog.text
    assert model.classes == ("background", "person")
    pixels = torch.from_numpy(arrays["target/image_rgb"]).permute(2, 0, 1)
    with torch.inference_mode():
        logits = model(model.preprocessing.normalise(pixels)[None])[0]
    assert golden.relative_error(logits[:, ::4, ::4].numpy(), arrays["out"]) <= 1e-4
    assert np.array_equal(np.packbits((logits[1] > logits[0]).numpy()), arrays["out/mask_bits"])


def test_parameters_are_those_of_the_paper():
    parameters = sum(p.numel() for p in create_model("sinet").parameters())
    assert parameters == 86910


def test_one_logit_lets_detail_pass_where_it_is_unsure():
    model = create_model("sinet", num_classes=1).eval()
    image = torch.randn(1, 3, 64, 64)
    before = model(image)
    model.detail.conv.weight.data.mul_(2)
    assert not torch.equal(model(image), before)


def test_the_encoder_s_file_starts_the_network(tmp_path):
    first = create_model("sinet_encoder")
    path = segmentarium.save(first, tmp_path / "encoder.safetensors")
    model = create_model("sinet", weights=str(path))
    given = first.state_dict()
    assert all(
        torch.equal(value, model.state_dict()[key]) for key, value in given.items() if key.startswith("encoder.")
    )


class Written:
    """The code of clovaai/c3_sinet, written out over a state dict with its keys."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, name, stride=1, groups=1):
        weight = self.state[f"{name}.weight"]
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        return F.conv2d(x, weight, None, stride, padding, groups=groups)

    def norm(self, x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{part}"] for part in parts), eps=1e-3)

    def act(self, x, name):
        return F.prelu(x, self.state[f"{name}.weight"])

    def norm_act(self, x, name):
        return self.act(self.norm(x, f"{name}.bn"), f"{name}.act")

    def down(self, x, name):
        x = self.conv(x, f"{name}.conv.0", 2, x.shape[1])
        weights, layer = x.mean((2, 3)), 0
        while f"{name}.conv.1.dense.{layer}.weight" in self.state:
            dense = f"{name}.conv.1.dense"
            weights = F.linear(weights, self.state[f"{dense}.{layer}.weight"], self.state[f"{dense}.{layer}.bias"])
            weights, layer = self.act(weights, f"{dense}.{layer + 1}"), layer + 2
        return self.norm_act(self.conv(x * weights[:, :, None, None], f"{name}.conv.2"), name)

    def branch(self, x, name, pooling):
        channels = x.shape[1]
        if pooling == 0:
            y = self.norm(self.conv(x, f"{name}.conv.0", groups=channels), f"{name}.conv.1")
        else:
            x = F.avg_pool2d(x, pooling) if pooling > 1 else x
            y = self.norm(self.conv(x, f"{name}.vertical", groups=channels), f"{name}.B_v")
            y = y + self.norm(self.conv(x, f"{name}.horizontal", groups=channels), f"{name}.B_h")
        y = self.conv(self.act(y, f"{name}.act_conv1x1.0"), f"{name}.act_conv1x1.1")
        if pooling > 1:
            y = F.interpolate(y, scale_factor=pooling, mode="bilinear", align_corners=True)
        return self.norm(y, f"{name}.bn")

    def module(self, x, name, branches):
        y = self.conv(x, f"{name}.c1.conv", groups=2)
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        y = torch.cat([self.branch(y, f"{name}.d{i}", pooling) for i, (_, pooling) in enumerate(branches, 1)], 1)
        return self.norm_act(y + x if y.shape == x.shape else y, f"{name}.BR")

    def __call__(self, image):
        def twice(x):
            return F.interpolate(x, scale_factor=2, mode="bilinear")

        def blocked(x):
            return 1 - x.softmax(1).max(1, keepdim=True)[0]

        x2 = self.norm_act(self.conv(image, "encoder.level1.conv", 2), "encoder.level1")
        x4 = self.down(x2, "encoder.level2_0")
        x8 = fine = self.down(x4, "encoder.level3_0")
        for index, branches in enumerate(LEVEL3):
            fine = self.module(fine, f"encoder.level3.{index}", branches)
        x16 = coarse = self.down(self.norm_act(torch.cat([x8, fine], 1), "encoder.BR3"), "encoder.level4_0")
        for index, branches in enumerate(LEVEL4):
            coarse = self.module(coarse, f"encoder.level4.{index}", branches)
        coarse = self.conv(self.norm_act(torch.cat([x16, coarse], 1), "encoder.BR4"), "encoder.classifier.conv")
        first = self.norm(twice(coarse), "bn_4")
        detail = self.norm_act(self.conv(fine, "level3_C.conv"), "level3_C")
        second = self.norm(twice(detail * blocked(first) + first), "bn_3")
        scores = F.conv_transpose2d(x4 * blocked(second) + second, self.state["classifier.weight"], stride=2)
        return scores, coarse


@pytest.mark.parametrize("classes", [5, 19])
def test_the_network_for_streets_is_that_of_its_code(classes):
    model = exercised(randomise(create_model("sinet_street", num_classes=classes)))
    state = export_layout(model, "sinet_street/clovaai")
    assert {
        "encoder.level3.1.d1.conv.1.running_var",
        "encoder.level4.6.d2.B_h.bias",
        "level3_C.act.weight",
    } <= state.keys()
    image = torch.randn(2, 3, 128, 256)
    with torch.inference_mode():
        scores, coarse = Written(state)(image)
        ours = model.forward_train(image)
        assert relative_error(ours["logits"], scores) <= 1e-4
        assert relative_error(ours["encoder"], coarse) <= 1e-4
        whole = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=True)
        assert relative_error(model(image), whole) <= 1e-4
        assert relative_error(model.deploy()(image), whole) <= 1e-3


def test_the_keys_of_the_network_for_streets():
    as_theirs("sinet_street/clovaai", "sinet_street", num_classes=7, in_channels=4)
