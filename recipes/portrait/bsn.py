"""BSN: soft labels at the boundary, the kernel of the mean mask, the attribute of the outline.

On ResNet-18 here: the paper's ResNet-101 from scratch would learn little from 1,281 photographs.  Published on EG1800 test, from
an encoder trained on ImageNet: mean IoU 96.7.
"""

from common import portrait

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    return portrait("bsn", model_arguments={"backbone": "resnet18"}, learning_rate=1e-3)
