"""Every backbone of the library as a classifier of ten kinds of small photographs, from nothing, under one budget.

    unzip -q -d runs/cifar10_small ../shared/data/cifar10_small/train.zip
    unzip -q -d runs/cifar10_small ../shared/data/cifar10_small/test.zip
    segmentarium compare --recipes recipes/classification/cifar10_backbones.py --root runs/cifar10_small --out runs/backbones
    segmentarium compare --recipes recipes/classification/cifar10_backbones.py --root runs/cifar10_small --out runs/backbones-1 \
        --seed 1 --engines eager

The first scores and times all of them, in every engine; the second is another seed's accuracy.  A family's smallest form stands
for it, and where that is large, narrower and shallower still: all have 3 to 130 M multiply-adds, so that a run takes one to five
minutes of a core.  Pictures are seen as they are, at 32 pixels, where a network of stride 32 ends with a single place; plain
transformers and networks of one size at 64, with patches of 8, or at 128 with patches of 16: 64 tokens in any case.  Parameters
and multiply-adds of networks that fold are those before they do.

400 steps of 64 pictures, nearly three passes over 9,000 of them: it ranks how fast families learn from little, where
convolutions are ahead of attention, not how good they become.
"""

from typing import Any

from segmentarium.registry import entry, known
from segmentarium.training import TrainingOptions

AS_THEY_ARE, SIDE, TOKENS_AT_16 = 32, 64, 128
PLAIN = {"embed_dim": 96, "depth": 6}
HEADS = {**PLAIN, "heads": 3}

# families whose smallest form is too large, or of another size -> the form that is trained, and its arguments
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "beit_b": ("beit_b", {**HEADS, "image_size": TOKENS_AT_16}),
    "coc_tiny": ("coc_tiny", {"embed_dims": [16, 32, 96, 160], "head_width": 16}),
    "dbb_mobilenet_v1": ("dbb_mobilenet_v1", {"width": 0.5}),
    "dbb_resnet18": ("dbb_resnet18", {"width": 32}),
    "eamlp_7": ("eamlp_7", {"embed_dim": 96, "image_size": TOKENS_AT_16}),
    "ff_only_tiny": ("ff_only_tiny", {**PLAIN, "patch": 8, "image_size": SIDE, "position_grid": [8, 8]}),
    "hrnet_w18_small": ("hrnet_w18_small", {"width": 8, "bottleneck_width": 16, "head_width": 8}),
    "lvvit_t": ("lvvit_t", {**HEADS, "stem": 16, "image_size": TOKENS_AT_16}),
    "mlp_mixer_s16": (
        "mlp_mixer_s16",
        {**PLAIN, "place_hidden": 48, "hidden": 384, "patch": 8, "image_size": SIDE},
    ),
    "mobilenet_v1_025": ("mobilenet_v1", {"width": 0.5}),
    "mobilenet_v2_035": ("mobilenet_v2", {}),
    "mobilenet_v3_small_050": ("mobilenet_v3_small", {}),
    "mscan_t": ("mscan_t", {"embed_dims": [16, 32, 80, 128]}),
    "repmlpnet_t224": (
        "repmlpnet_t224",
        {"channels": [32, 64, 128, 256], "depths": [2, 2, 2, 2], "share_sets": [1, 2, 4, 16], "img_size": SIDE},
    ),
    "resnest14": ("resnest14", {"width": 32, "deep_stem": [16, 16, 32]}),
    "resnet18": ("resnet18", {"width": 32}),
    "resnet50_spm": ("resnet50_spm", {"width": 16, "deep_stem": [16, 16, 32]}),
    "shufflenet_v1_g1_025": ("shufflenet_v1", {}),
    "shufflenet_v2_050": ("shufflenet_v2", {}),
    "swin_t": ("swin_t", {"embed_dim": 32}),
    "vit_tiny_patch16_224": ("vit_tiny_patch16_224", {**HEADS, "patch": 8, "image_size": SIDE}),
    "vit_tiny_r_s16_p8_224": (
        "vit_tiny_r_s16_p8_224",
        {**HEADS, "stem_blocks": [1, 1], "stem_width": 32, "patch": 1, "image_size": SIDE},
    ),
    "xception": ("xception", {"width": 0.25}),
    "xception41p": ("xception41p", {"width": 0.25}),
}


def smallest() -> list[str]:
    """Of each class of backbones the registered form with the fewest parameters."""
    found: dict[Any, str] = {}
    for name, told in sorted(known().items(), key=lambda item: item[1].get("parameters") or 0):
        if told["kind"] == "classifier":
            found.setdefault(entry(name).build, name)
    return sorted(found.values())


def recipes() -> dict[str, TrainingOptions]:
    found = {}
    for name in smallest():
        model, arguments = FORMS.get(name, (name, {}))
        found[model] = TrainingOptions(
            model=model,
            model_arguments=arguments,
            data="imagefolder",
            root="runs/cifar10_small",
            cache=True,
            size=arguments.get("image_size", arguments.get("img_size", AS_THEY_ARE)),
            crop_ratio=1.0,
            area=(0.5, 1.0),
            max_steps=400,
            batch_size=64,
            optimizer="adamw",
            learning_rate=2e-3,
            weight_decay=0.05,
            schedule="cosine",
            warmup_steps=60,
            clip_norm=1.0,
            ema=0.99,
            val_every=400,
            save_every=100,
            images_every=0,
        )
    return found
