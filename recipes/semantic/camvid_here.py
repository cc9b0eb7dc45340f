"""Whole transformers on CamVid from scratch, beside a plain FCN on a half-width ResNet-18 under the same budget.

    segmentarium compare --recipes recipes/semantic/camvid_here.py --root DIR/camvid --out runs/whole-0 --engines eager
    segmentarium compare --recipes recipes/semantic/camvid_here.py --root DIR/camvid --out runs/whole-1 --engines eager --seed 1

300 steps of 8 crops of 192×256 (five times the pictures), AdamW at one rate for all: two to five minutes of a core each.  All
are narrowed until a step costs one to three times the FCN's, the plain transformers have patches of 8 pixels (DPT 16, since it
enlarges), and none is pretrained; from so few pictures a transformer is not expected to come near, and a difference says
something only where it is greater than that between the seeds.
"""

from typing import Any

from segmentarium.training import TrainingOptions

PLAIN = {"embed_dim": 96, "depth": 4, "heads": 3, "patch": 8, "image_size": [192, 256]}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "fcn_resnet18": (
        "fcn",
        {"backbone": "resnet18", "backbone_arguments": {"width": 32}, "output_stride": 16},
    ),
    "segmenter": ("segmenter_tiny", {"backbone_arguments": PLAIN}),
    "dpt": (
        "dpt_base",
        {
            "backbone_arguments": {**PLAIN, "embed_dim": 192, "patch": 16},
            "widths": [32, 48, 96, 96],
            "decoder_channels": 48,
        },
    ),
    "segvit": (
        "segvit_vit_base",
        {
            "backbone_arguments": {**PLAIN, "final_norm": False, "out_indices": [1, 2, 3]},
            "width": 96,
            "heads": 3,
            "layers": 1,
        },
    ),
    "upernet_swin": (
        "upernet_swin_tiny",
        {
            "backbone_arguments": {"embed_dim": 32, "depths": [2, 2, 4, 2], "drop_path": 0.0},
            "decoder_channels": 64,
            "auxiliary_arguments": {"decoder_channels": 32},
        },
    ),
    "segnext": (
        "segnext_t",
        {
            "backbone_arguments": {"embed_dims": [16, 32, 80, 128], "depths": [2, 2, 3, 2], "drop_path": 0.0},
            "width": 96,
        },
    ),
}


def recipes() -> dict[str, TrainingOptions]:
    return {
        name: TrainingOptions(
            model=model,
            model_arguments=arguments,
            data="camvid",
            root="../shared/data/camvid",
            train_split="trainval",
            val_split="test",
            cache=True,
            crop_size=(192, 256),
            scale=(0.5, 1.75),
            max_steps=300,
            batch_size=8,
            optimizer="adamw",
            learning_rate=1e-3,
            backbone_lr_factor=1.0,
            weight_decay=0.01,
            warmup_steps=30,
            clip_norm=1.0,
            ema=0.98,
            class_weight="enet:1.1",
            val_every=300,
            save_every=50,
            images_every=0,
        )
        for name, (model, arguments) in NETWORKS.items()
    }
