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
    "backbones.xception": ("xception39",),
    "semantic.fcn": ("fcn", "fcn_resnet50", "fcn_resnet101"),
    "semantic.pspnet": ("pspnet", "pspnet_resnet50", "pspnet_resnet101"),
    "semantic.deeplabv3plus": (
        "deeplabv3plus", "deeplabv3plus_mobilenet_v2",
        "deeplabv3plus_resnet18", "deeplabv3plus_resnet50", "deeplabv3plus_resnet101",
    ),
    "semantic.segformer": ("segformer_b0", "segformer_b1", "segformer_b2", "segformer_b3", "segformer_b4", "segformer_b5"),
    "realtime.bisenet": ("bisenet_resnet18", "bisenet_resnet101", "bisenet_xception39"),
    "realtime.bisenetv2": ("bisenetv2", "bisenetv2_large"),
    "realtime.enet": ("enet", "enet_2018", "enet_paper", "enet_encoder"),
    "realtime.regseg": ("regseg", "regseg_large"),
    "realtime.swiftnet": ("swiftnet", "swiftnet_mobilenet_v2", "swiftnet_pyramid"),
    "realtime.contextnet": ("contextnet", "contextnet_cn12", "contextnet_cn18"),
    "realtime.fast_scnn": ("fast_scnn",),
    "realtime.cgnet": ("cgnet", "cgnet_m3n15"),
    "realtime.dfanet": ("dfanet", "dfanet_a", "dfanet_b"),
    "portrait.pphumanseg": ("pphumanseg",),
    "portrait.sinet": ("sinet", "sinet_encoder"),
}  # fmt: skip
