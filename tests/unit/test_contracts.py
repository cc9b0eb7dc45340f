"""What `SegmentationModel` itself does: objective, class weights, preprocessing, the deploy copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.composition import EncoderDecoder
from segmentarium.contracts import Decoder, Preprocessing, SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy, build_loss


class NativeLoss(nn.Module):
    """Gives 3, and sees that its output is as the network made it."""

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
        self.set_objective(
            Term("logits", 1.0, CrossEntropy()), Term("edge", 0.5, CrossEntropy(), of=("edge",), classes=False)
        )

    def logits(self, image: Tensor) -> Tensor:
        return self.head(self.body(image))

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        x = self.body(image)
        return {"logits": self.head(x), "edge": self.edge(x)}


IMAGE = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))


def test_the_criterion_weighs_each_loss_at_the_target_s_size() -> None:
    model = TwoHeads()
    target = torch.randint(0, 2, (2, 32, 40))
    outputs = model.forward_train(IMAGE)
    losses = model.criterion(outputs, {"mask": target})
    assert losses.keys() == {"logits", "edge"}
    expected = CrossEntropy()(resize(outputs["edge"], (32, 40)), target)
    assert torch.allclose(losses["edge"], 0.5 * expected)


def test_align_corners_of_a_model_reaches_its_criterion() -> None:
    model = TwoHeads()
    model.align_corners = True
    target = torch.randint(0, 3, (2, 32, 40))
    logits = torch.randn(2, 3, 8, 10)
    expected = CrossEntropy()(resize(logits, (32, 40), align_corners=True), target)
    model.set_objective(Term("logits", 1.0, CrossEntropy()))
    assert torch.equal(model.criterion({"logits": logits}, {"mask": target})["logits"], expected)


def test_a_loss_may_see_the_native_size() -> None:
    model = TwoHeads()
    model.set_objective(Term("edge", 2.0, NativeLoss(), of=("edge",), at="as is"))
    assert model.criterion(model.forward_train(IMAGE), {"mask": torch.zeros(2, 32, 40).long()})["edge"] == 6


def test_a_loss_may_read_several_outputs_the_labels_at_their_size_or_no_labels() -> None:
    class Sizes(nn.Module):
        def forward(self, *given: Tensor) -> Tensor:
            return torch.tensor([float(x.shape[-1]) for x in given]).sum()

    model = TwoHeads()
    outputs = model.forward_train(IMAGE)
    width, wide = outputs["edge"].shape[-1], 40
    model.set_objective(
        Term("both", 1.0, Sizes(), of=("logits", "edge")),
        Term("small", 1.0, Sizes(), of=("edge",), at="output"),
        Term("alone", 1.0, Sizes(), of=("logits", "edge"), on=None),
    )
    losses = model.criterion(outputs, {"mask": torch.zeros(2, 32, 40).long()})
    assert losses == {"both": 3 * wide, "small": 2 * width, "alone": 2 * width}
    with pytest.raises(ValueError, match="the terms are called a, a; give each a name of its own"):
        model.set_objective(Term("a", 1.0, Sizes()), Term("a", 1.0, Sizes()))
    with pytest.raises(TypeError, match="criterion takes a batch"):
        model.criterion(outputs, torch.zeros(2, 32, 40).long())


def test_class_weights_reach_the_losses_on_classes_only() -> None:
    model = TwoHeads()
    model.set_class_weights(torch.tensor([1.0, 2.0, 3.0]))
    assert model.losses["logits"].class_weight.tolist() == [1, 2, 3]
    assert model.losses["edge"].class_weight is None
    losses = model.criterion(model.forward_train(IMAGE), {"mask": torch.randint(0, 2, (2, 32, 40))})
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
    one.set_objective(Term("logits", 1.0, build_loss("cross_entropy+dice")))
    one.set_class_weights(torch.tensor([1.0, 2.0]))  # background and foreground


def test_deploy_is_a_copy_without_what_training_needs() -> None:
    model = TwoHeads().train()
    deployed = model.deploy()
    assert torch.allclose(deployed(IMAGE), model.eval()(IMAGE), atol=1e-6)
    assert not deployed.training
    assert not hasattr(deployed, "edge")
    assert len(deployed.losses) == 0
    assert deployed.objective == ()
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
    class Head(Decoder):
        def __init__(self, *, channels: tuple[int, ...], strides: tuple[int, ...], num_classes: int) -> None:
            super().__init__()
            self.classifier = nn.Conv2d(channels[-1], num_classes, 1)

        def forward(self, features: list[Tensor]) -> Tensor:
            return self.classifier(features[-1])

    model = EncoderDecoder(Head, backbone="mobilenet_v2_050", auxiliary=True, num_classes=5).eval()
    assert model(IMAGE).shape == (2, 5, 32, 40)
    outputs = model.forward_train(IMAGE)
    assert outputs.keys() == {"logits", "aux"}
    assert torch.equal(resize(outputs["logits"], (32, 40)), model(IMAGE))
    assert model.criterion(outputs, {"mask": torch.zeros(2, 32, 40).long()}).keys() == {"logits", "aux"}
    assert not hasattr(model.deploy(), "auxiliary")
    assert not EncoderDecoder(Head, backbone="mobilenet_v2_050", num_classes=5).auxiliary


def test_a_backbone_s_feature_of_a_stride_is_the_deepest() -> None:
    backbone = create_backbone("resnet18", width=8, output_stride=8)
    assert backbone.strides == (4, 8, 8, 8)
    assert (backbone.at(4), backbone.at(8)) == (0, 3)
    with pytest.raises(ValueError, match=r"no feature of stride 2, which is needed; it has \(4, 8, 8, 8\)"):
        backbone.at(2)


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
