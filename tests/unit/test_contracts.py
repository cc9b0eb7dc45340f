"""What `SegmentationModel` itself does: objective, class weights, preprocessing, the deploy copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.contracts import EncoderDecoder, Preprocessing, SegmentationModel, pick
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy, build_loss


class NativeLoss(nn.Module):
    """A loss that wants its output as the network makes it."""

    native_size = True

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        assert output.shape[-2:] != target.shape[-2:]
        return output.mean() * 0 + 3


class TwoHeads(SegmentationModel):
    training_only = ("edge",)

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes=num_classes)
        self.body = ConvNormAct(3, 4, 3, 2)
        self.head = nn.Conv2d(4, num_classes, 1)
        self.edge = nn.Conv2d(4, 1, 1)
        edge_loss = CrossEntropy()
        edge_loss.classwise = False
        self.set_objective({"logits": (1.0, CrossEntropy()), "edge": (0.5, edge_loss)})

    def forward(self, image: Tensor) -> Tensor:
        return resize(self.head(self.body(image)), image.shape[-2:])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        x = self.body(image)
        return {"logits": self.head(x), "edge": self.edge(x)}


IMAGE = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))


def test_the_criterion_weighs_each_loss_at_the_target_s_size() -> None:
    model = TwoHeads()
    target = torch.randint(0, 2, (2, 32, 40))
    outputs = model.forward_train(IMAGE)
    losses = model.criterion(outputs, target)
    assert losses.keys() == {"logits", "edge"}
    expected = CrossEntropy()(resize(outputs["edge"], (32, 40)), target)
    assert torch.allclose(losses["edge"], 0.5 * expected)


def test_align_corners_of_a_model_reaches_its_criterion() -> None:
    model = TwoHeads()
    model.align_corners = True
    target = torch.randint(0, 3, (2, 32, 40))
    logits = torch.randn(2, 3, 8, 10)
    expected = CrossEntropy()(resize(logits, (32, 40), align_corners=True), target)
    model.set_objective({"logits": (1.0, CrossEntropy())})
    assert torch.equal(model.criterion({"logits": logits}, target)["logits"], expected)


def test_a_loss_may_see_the_native_size() -> None:
    model = TwoHeads()
    model.set_objective({"edge": (2.0, NativeLoss())})
    assert model.criterion(model.forward_train(IMAGE), torch.zeros(2, 32, 40).long())["edge"] == 6


def test_class_weights_reach_the_losses_on_classes_only() -> None:
    model = TwoHeads()
    model.set_class_weights(torch.tensor([1.0, 2.0, 3.0]))
    assert model.losses["logits"].class_weight.tolist() == [1, 2, 3]
    assert model.losses["edge"].class_weight is None
    losses = model.criterion(model.forward_train(IMAGE), torch.randint(0, 2, (2, 32, 40)))
    assert all(loss.isfinite() for loss in losses.values())
    model.set_class_weights(None)
    assert model.losses["logits"].class_weight is None


def test_class_weights_follow_the_model_and_stay_out_of_its_file() -> None:
    with torch.device("meta"):
        model = TwoHeads()
    model.set_class_weights(torch.ones(3))
    assert model.losses["logits"].class_weight.device.type == "meta"
    assert not any("class_weight" in key for key in model.state_dict())


def test_class_weights_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"class weights have shape \(4,\); give \(3,\)"):
        TwoHeads().set_class_weights(torch.ones(4))
    one = SegmentationModel(num_classes=1)
    one.set_objective({"logits": (1.0, build_loss("cross_entropy+dice"))})
    one.set_class_weights(torch.tensor([1.0, 2.0]))  # background and foreground


def test_deploy_is_a_copy_without_what_training_needs() -> None:
    model = TwoHeads().train()
    deployed = model.deploy()
    assert torch.allclose(deployed(IMAGE), model.eval()(IMAGE), atol=1e-6)
    assert not deployed.training
    assert not hasattr(deployed, "edge")
    assert not hasattr(deployed, "losses")
    assert deployed.loss_weights == {}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    assert hasattr(model, "edge")
    assert all(p.requires_grad for p in model.parameters())
    assert deployed.classes == model.classes


def test_deploy_of_a_deployed_model_and_of_half_precision() -> None:
    model = TwoHeads()
    twice = model.deploy().deploy()
    assert torch.allclose(twice(IMAGE), model.eval()(IMAGE), atol=1e-6)
    half = TwoHeads().bfloat16().deploy()
    assert half(IMAGE.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("num_classes", [0, -1])
def test_no_classes_is_an_error(num_classes: int) -> None:
    with pytest.raises(ValueError, match=rf"num_classes is {num_classes}; give the number of classes, 1 or more"):
        TwoHeads(num_classes)


def test_one_logit_has_two_labels() -> None:
    model = TwoHeads(1)
    assert model.classes == ("class 0", "class 1")
    assert len(model.palette) == 2


def test_encoder_decoder_joins_its_parts() -> None:
    backbone = create_backbone("mobilenet_v2_050")

    class Head(nn.Module):
        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index
            self.classifier = nn.Conv2d(backbone.channels[index], 5, 1)

        def forward(self, features: list[Tensor]) -> Tensor:
            return self.classifier(features[self.index])

    model = EncoderDecoder(backbone=backbone, decoder=Head(-1), auxiliary={"aux": Head(0)}, num_classes=5).eval()
    assert model(IMAGE).shape == (2, 5, 32, 40)
    outputs = model.forward_train(IMAGE)
    assert outputs.keys() == {"logits", "aux"}
    assert torch.equal(resize(outputs["logits"], (32, 40)), model(IMAGE))
    assert not hasattr(model.deploy(), "auxiliary")


def test_pick_takes_the_deepest_of_a_stride() -> None:
    features = [torch.full((1, 1, 1, 1), float(i)) for i in range(4)]
    assert pick(features, (4, 8, 8, 8), 8) is features[3]
    assert pick(features, (4, 8, 16, 32), 4) is features[0]
    with pytest.raises(ValueError, match=r"no feature of stride 2; it has \(4, 8, 16, 32\)"):
        pick(features, (4, 8, 16, 32), 2)


# preprocessing ----------------------------------------------------------------------------------------------------------


def test_normalise_takes_bytes_and_fractions() -> None:
    preprocessing = Preprocessing((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    white = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    expected = torch.tensor([1.0, 3.0, 1.0]).view(3, 1, 1).expand(3, 2, 2)
    assert torch.equal(preprocessing.normalise(white), expected)
    assert torch.equal(preprocessing.normalise(torch.ones(1, 3, 2, 2)), expected[None])
    assert preprocessing.normalise(torch.ones(1, 3, 2, 2, dtype=torch.float16)).dtype == torch.float32


def test_preprocessing_for_other_channels() -> None:
    preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 480)
    assert preprocessing.for_channels(3) is preprocessing
    one = preprocessing.for_channels(1)
    assert one.mean == pytest.approx((0.2,))
    assert one.std == pytest.approx((0.5,))
    assert preprocessing.for_channels(5).mean == (0.1, 0.2, 0.3, 0.1, 0.2)
    assert one.long_side == preprocessing.for_channels(5).long_side == 480


def test_preprocessing_survives_json() -> None:
    import json

    preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 480)
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.as_dict()))) == preprocessing
    assert Preprocessing.from_dict({"mean": [0.5], "std": [0.5]}) == Preprocessing((0.5,), (0.5,))
