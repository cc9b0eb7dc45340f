"""BiSeNet V2 as CoinCheung's code of 2020 computes it.  The stored outputs of the others: test_layouts.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.registry import create_model
from segmentarium.weights import export_layout, load
from tests.parity.comparison import TOLERANCE, exercised, randomise, relative_error

STATISTICS = ("running_mean", "running_var", "weight", "bias")


def aggregated(state: dict[str, Tensor], detail: Tensor, semantic: Tensor) -> Tensor:
    """Its aggregation layer and head from its own keys: bilinear, corners aligned -> logits at 1/8."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in STATISTICS))

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=1, groups=groups)

    def enlarged(x: Tensor) -> Tensor:
        return F.interpolate(x, detail.shape[-2:], mode="bilinear", align_corners=True)

    def kept(x: Tensor, name: str) -> Tensor:
        return F.conv2d(norm(conv(x, f"{name}.0", groups=128), f"{name}.1"), state[f"{name}.2.weight"])

    down = F.avg_pool2d(norm(conv(detail, "bga.left2.0", 2), "bga.left2.1"), 3, 2, 1)
    gate = enlarged(norm(conv(semantic, "bga.right1.0"), "bga.right1.1")).sigmoid()
    x = kept(detail, "bga.left1") * gate + enlarged(down * kept(semantic, "bga.right2").sigmoid())
    x = norm(conv(x, "bga.conv.0"), "bga.conv.1").relu()
    x = norm(conv(x, "head.conv.conv"), "head.conv.bn").relu()
    return F.conv2d(x, state["head.conv_out.weight"], state["head.conv_out.bias"])


def test_the_code_of_2020(tmp_path):
    model = exercised(
        randomise(create_model("bisenetv2", num_classes=5, boosters="coincheung_2020", align_corners=True))
    )
    state = export_layout(model, "bisenetv2/coincheung_2020")
    assert {"head.conv_out.bias", "aux5_4.conv_out.weight", "aux2.conv.bn.bias"} <= state.keys()
    torch.save(state, tmp_path / "model_final_v2.pth")
    loaded = load(tmp_path / "model_final_v2.pth")
    assert loaded.align_corners
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        logits = aggregated(state, loaded.detail(image), loaded.semantic(image)[0])
        assert relative_error(loaded.logits(image), logits) <= TOLERANCE
        whole = F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=True)
        assert relative_error(loaded(image), whole) <= TOLERANCE
        for name, output in loaded.forward_train(image).items():
            torch.testing.assert_close(output, model.forward_train(image)[name])
        # files without boosters, and today's, are told apart
        bare = {key: value for key, value in state.items() if not key.startswith("aux")}
        torch.save(bare, tmp_path / "bare.pth")
        torch.testing.assert_close(load(tmp_path / "bare.pth")(image), loaded(image))
        other = load(tmp_path / "bare.pth", align_corners=False)
        assert not torch.allclose(other(image), loaded(image), rtol=0.01)
