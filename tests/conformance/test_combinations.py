"""Every decoder on every kind of backbone: it gives logits, or says in one sentence, when it is built, why it cannot."""

from __future__ import annotations

import pytest
import torch

from segmentarium.meta import on_meta
from segmentarium.registry import create_model, entry, known, list_models

BACKBONES = [
    "resnet18",
    "mobilenet_v2",
    "mit_b0",
    "timm:convnext_tiny",
    "timm:vit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:hrnet_w18_small",
]
VIT = "timm:vit_tiny_patch16_224"
UNDILATED = ["mit_b0", VIT, "timm:swin_tiny_patch4_window7_224", "timm:hrnet_w18_small"]
PYRAMIDS = [name for name in BACKBONES if name != VIT]

NAMES = [name for name in list_models(kind="segmenter") if entry(name).takes("backbone")]
LARGER = ("34", "50", "101")  # of a system that is there on a ResNet-18, or on the backbone that it has by default
ALONE = ["deeplabv3_cascade_resnet50", "fpn_resnet50", "maskformer_resnet50", "mask2former_resnet50"]


def decoders() -> list[str]:
    """One name of each decoder, and of each set of arguments that its variants name: of those that differ in sizes, or in their
    own backbone alone, the smallest."""
    alike: dict[object, list[str]] = {}
    for name in (*(name for name in NAMES if not name.endswith(LARGER)), *ALONE):
        found = entry(name)
        alike.setdefault((found.build, *sorted({*found.arguments} - {"backbone"})), []).append(name)
    return sorted(min(names, key=lambda name: known()[name]["parameters"]) for names in alike.values())


DECODERS = decoders()

NOT_PYRAMID = "a plain transformer has features of one stride"
# decoder -> backbones that it cannot stand on, why, and what it says
REFUSED: dict[str, tuple[list[str], str, str]] = {
    "bisenet_resnet18": ([VIT], NOT_PYRAMID, "has no feature of stride 32, which is needed"),
    "bisenet_xception39": ([VIT], NOT_PYRAMID, "has no feature of stride 32, which is needed"),
    "deeplabv3_resnet18": (UNDILATED, "the variant has output stride 8", r"output stride .*8"),
    "deeplabv3_resnet101_mg124": (UNDILATED, "the variant has output stride 16", r"output stride .*16"),
    "deeplabv3plus_resnet18": (UNDILATED, "the variant has output stride 8", r"output stride .*8"),
    **dict.fromkeys(
        ("dpt_base", "dpt_hybrid"),
        (
            [name for name in BACKBONES if name != VIT],
            "it reads the class token",
            "give readout='ignore', or a transformer",
        ),
    ),
    "fanet18": (["mobilenet_v2", "mit_b0", VIT], "its width doubles with each feature", "each with twice the channels"),
    "icnet_resnet18": (BACKBONES[1:], "the cascade cuts a ResNet in two", "the cascade cuts a ResNet in two"),
    "msfnet": ([VIT], NOT_PYRAMID, "the fusion wants 4, 8, 16, 32"),
    "segvitv2_shrunk_vit_large": (
        BACKBONES,
        "it runs blocks of tokens itself",
        r"Shrunk\+\+ runs the blocks of a plain",
    ),
    "sfnet_resnet18": ([VIT], NOT_PYRAMID, "levels is 4; this backbone has 3 features"),
    "sfnet_lite_resnet18": ([VIT], NOT_PYRAMID, "has no feature of stride 4, which is needed"),
    "shelfnet18": ([VIT], NOT_PYRAMID, "has no feature of stride 8, which is needed"),
    "stdc1": ([VIT], NOT_PYRAMID, "has no feature of stride 8, which is needed"),
    "upernet_beit_base": (PYRAMIDS, "its neck is for a plain transformer", "a neck is for plain transformers"),
    "upernet_vit_base": (PYRAMIDS, "its neck is for a plain transformer", "a neck is for plain transformers"),
    "swiftnet_mobilenet_v2": ([VIT], NOT_PYRAMID, "has no feature of stride 4, which is needed"),
}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_on_every_backbone(decoder: str, backbone: str) -> None:
    backbones, _, message = REFUSED.get(decoder, ([], "", ""))
    with on_meta(), torch.no_grad():
        if backbone in backbones:
            with pytest.raises(ValueError, match=message) as refusal:
                create_model(decoder, backbone=backbone, num_classes=5)
            assert "\n" not in str(refusal.value)
            return
        model = create_model(decoder, backbone=backbone, num_classes=5).eval()
        assert model(torch.empty(1, 3, 96, 160)).shape == (1, 5, 96, 160)
        outputs = model.forward_train(torch.empty(1, 3, 96, 160))
    assert {name for term in model.objective for name in term.of} <= outputs.keys()


def test_the_table_has_no_line_too_many() -> None:
    assert REFUSED.keys() <= set(DECODERS)


@pytest.mark.parametrize("decoder", ["fcn", "pspnet", "deeplabv3plus", "segformer_b0"])
def test_a_neck_makes_a_pyramid_of_a_plain_transformer(decoder: str) -> None:
    with on_meta(), torch.no_grad():
        arguments = {"out_indices": (2, 5, 8, 11)}
        model = create_model(decoder, backbone=VIT, neck="pyramid", backbone_arguments=arguments, num_classes=5).eval()
        assert [f.shape[-2:] for f in model.features(torch.empty(1, 3, 96, 160))] == [
            (24, 40),
            (12, 20),
            (6, 10),
            (3, 5),
        ]
        assert model(torch.empty(1, 3, 96, 160)).shape == (1, 5, 96, 160)
