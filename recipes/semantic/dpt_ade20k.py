"""DPT on ViT-B/16 at ADE20K, as mmsegmentation trains it: AdamW at 6e-5, batch 16, 160,000 steps of 512×512.

    segmentarium train --recipe recipes/semantic/dpt_ade20k.py --root DIR/ADEChallengeData2016 --backbone-weights timm:NAME

Expected (published, val mIoU, one scale): dpt_base 46.97; the authors' dpt_hybrid 49.02, by 240 epochs of SGD.
"""

from common import transformer

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return transformer("dpt_base", "ade20k")
