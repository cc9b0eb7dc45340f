"""Which module registers which models.  Kept by hand; `tests/unit/test_registry.py` holds it against the files."""

MODULES: dict[str, tuple[str, ...]] = {
    "backbones.mobilenet_v2": ("mobilenet_v2", "mobilenet_v2_050", "mobilenet_v2_140"),
    "backbones.resnet": (
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
        "resnet18_v1c", "resnet34_v1c", "resnet50_v1c", "resnet101_v1c",
        "resnet18_v1d", "resnet34_v1d", "resnet50_v1d", "resnet101_v1d",
        "resnet50_v1s", "resnet101_v1s",
    ),
    "backbones.mit": ("mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"),
    "semantic.fcn": ("fcn", "fcn_resnet50", "fcn_resnet101"),
    "semantic.pspnet": ("pspnet", "pspnet_resnet50", "pspnet_resnet101"),
    "semantic.deeplabv3plus": (
        "deeplabv3plus", "deeplabv3plus_mobilenet_v2",
        "deeplabv3plus_resnet18", "deeplabv3plus_resnet50", "deeplabv3plus_resnet101",
    ),
    "semantic.segformer": ("segformer_b0", "segformer_b1", "segformer_b2", "segformer_b3", "segformer_b4", "segformer_b5"),
    "realtime.bisenetv2": ("bisenetv2", "bisenetv2_large"),
    "portrait.pphumanseg": ("pphumanseg",),
}  # fmt: skip
