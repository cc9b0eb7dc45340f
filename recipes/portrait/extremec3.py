"""ExtremeC3Net, 0.038 M parameters.  Published on EG1800 test: mean IoU 94.98."""

from common import portrait

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    return portrait("extremec3", learning_rate=5e-3, weight_decay=2e-4)
