"""What makes Segmenter Segmenter: classes are queries without an order, and patches score by their angle to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from segmentarium.meta import on_meta
from segmentarium.registry import create_model, list_models
from segmentarium.semantic.segmenter import LinearDecoder, MaskTransformer
from tests.parity.comparison import exercised

OWN: dict[str, Any] = {"channels": (12,), "strides": (16,), "num_classes": 5}


@torch.inference_mode()
def test_the_mask_transformer_is_equivariant_in_its_classes() -> None:
    decoder = exercised(MaskTransformer(**OWN, decoder_channels=16))
    feature = [torch.randn(2, 12, 3, 4)]
    masks = decoder(feature)
    order = torch.tensor([3, 0, 4, 1, 2])
    decoder.class_embeddings.copy_(decoder.class_embeddings[:, order])
    decoder.mask_norm.weight.copy_(decoder.mask_norm.weight[order])
    decoder.mask_norm.bias.copy_(decoder.mask_norm.bias[order])
    assert torch.allclose(decoder(feature), masks[:, order], atol=1e-5)
    assert not torch.allclose(masks, masks[:, order], atol=1e-2)


@torch.inference_mode()
def test_a_class_changes_the_masks_of_the_others() -> None:
    """They stand in one sequence; the linear decoder's classes know nothing of each other."""
    feature = [torch.randn(1, 12, 3, 4)]
    for decoder, table in (
        (exercised(MaskTransformer(**OWN)), "class_embeddings"),
        (LinearDecoder(**OWN), "classifier.weight"),
    ):
        before = decoder.eval()(feature)
        parameter = decoder.get_parameter(table)
        parameter[..., 0, :] += torch.randn(12)
        # what the norm over the classes takes out of a patch's scores
        changed = (decoder(feature) - before).abs().amax((0, 2, 3)) > 1e-4
        assert changed[0]
        assert changed[1:].any() == isinstance(decoder, MaskTransformer)


@torch.inference_mode()
def test_scores_are_cosines_normed_over_the_classes() -> None:
    decoder = exercised(MaskTransformer(**OWN))
    decoder.mask_norm.reset_parameters()
    masks = decoder([torch.randn(2, 12, 3, 4)])
    assert torch.allclose(masks.mean(1), torch.zeros(2, 3, 4), atol=1e-5)
    assert torch.allclose(masks.var(1, correction=0), torch.ones(2, 3, 4), atol=0.05)
    decoder.project_patches.weight.mul_(3.0)  # lengths do not count
    torch.manual_seed(1)
    feature = [torch.randn(2, 12, 3, 4)]
    before = decoder(feature)
    decoder.project_classes.weight.mul_(7.0)
    assert torch.allclose(decoder(feature), before, atol=1e-5)


@torch.inference_mode()
def test_one_class_is_the_difference_of_two() -> None:
    decoder = exercised(MaskTransformer(**{**OWN, "num_classes": 1}))
    two = exercised(MaskTransformer(**{**OWN, "num_classes": 2}))
    two.load_state_dict(decoder.state_dict())
    feature = [torch.randn(1, 12, 3, 4)]
    assert torch.allclose(decoder(feature).sigmoid()[:, 0], two(feature).softmax(1)[:, 1], atol=1e-5)


@pytest.mark.parametrize("name", ["segmenter_tiny", "segmenter_small_linear"])
@torch.inference_mode()
def test_a_picture_is_padded_to_whole_patches(name: str) -> None:
    ways = {"embed_dim": 32, "depth": 2, "heads": 2, "image_size": 64}
    model = create_model(name, num_classes=3, backbone_arguments=ways).eval()
    image = torch.randn(1, 3, 40, 60)
    assert torch.allclose(model(image), model(F.pad(image, (0, 4, 0, 8)))[..., :40, :60], atol=1e-5)
    assert model.logits(F.pad(image, (0, 4, 0, 8))).shape == (1, 3, 3, 4)


@pytest.mark.parametrize("name", ["segmenter_tiny", "segmenter_small_linear"])
def test_the_decoder_reads_what_passed_the_final_norm(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=3, backbone="timm:test_vit")
        assert model.backbone.body.norm.weight.shape == (64,)
        assert create_model(name, num_classes=3, backbone="resnet18").features(torch.empty(1, 3, 64, 64))


def test_deit_normalises_as_imagenet_and_the_others_by_halves() -> None:
    """As the authors' configurations say, in a fresh network as in one of a file."""
    with on_meta():
        means = {name: create_model(name).preprocessing.mean for name in list_models("segmenter_*")}
    deit = {name for name, mean in means.items() if mean == (0.485, 0.456, 0.406)}
    assert deit == {"segmenter_deit_base", "segmenter_deit_base_linear"}
    assert {mean for name, mean in means.items() if name not in deit} == {(0.5, 0.5, 0.5)}
