"""Context-aware classifiers at ADE20K, as CAC's authors train them: UPerNet on Swin-T by Swin's protocol.

    segmentarium train --recipe recipes/semantic/cac_ade20k.py --root DIR/ADEChallengeData2016 --backbone-weights timm:NAME

Expected (published, val mIoU, one scale): 46.91; without, upernet_swin_tiny 44.4.  The convolutional forms are trained by
recipes/semantic/ade20k.py: --model cac_deeplabv3plus_resnet50 46.29, cac_fcn_mobilenet_v2 37.42, cac_ocrnet_hr18 44.53.
"""

from common import transformer

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return transformer("cac_upernet_swin_tiny", "ade20k")
