"""What the recipes of this folder share: the public protocols for decoders on ADE20K, Cityscapes, VOC and COCO-Stuff.

    segmentarium train --recipe recipes/semantic/ade20k.py --root DIR/ADEChallengeData2016 --backbone-weights FILE
    segmentarium train --recipe recipes/semantic/ade20k.py --root DIR/ADEChallengeData2016 --model danet_resnet50

Nobody trained these here: the settings are the authors' or mmsegmentation's, and so are the scores that they should come to.
The batch is the effective one: give --micro-batch for what a device holds.  The rate falls to 0, in mmsegmentation to 1e-4
(transformers: 0).  A step costs three times the multiply-adds of a forward pass for each crop.
"""

from typing import Any

from segmentarium.training import TrainingOptions


def convolutional(model: str, data: str, **changes: Any) -> TrainingOptions:
    """mmsegmentation's protocol for heads on dilated ResNets: SGD at 0.01, decay 5e-4 of norms and biases, too, poly 0.9; half to
    double size, mirrored, colours disturbed, no crop of which one class takes more than three quarters."""
    options = TrainingOptions(
        model=model,
        data=data,
        root=data,
        output=f"runs/{data}/{model}",
        crop_size=(512, 512),
        batch_size=16,
        max_steps=160_000,
        backbone_lr_factor=1.0,
        decay_norm_bias=True,
        ema=0.0,
        val_every=16_000,
        save_every=2_000,
    )
    return options.replace(**changes)


def transformer(model: str, data: str, **changes: Any) -> TrainingOptions:
    """The protocol of SegFormer, which those of Swin, SegNeXt and others follow: AdamW at 6e-5 for the backbone, 1,500 steps of
    warm-up, falling evenly to 0; norms are not decayed, nor are biases, which theirs are."""
    options = convolutional(
        model,
        data,
        optimizer="adamw",
        learning_rate=6e-5,
        weight_decay=0.01,
        decay_norm_bias=False,
        power=1.0,
        warmup_steps=1500,
    )
    return options.replace(**changes)
