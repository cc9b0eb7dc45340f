"""PP-HumanSeg's ConnectNet with its connectivity loss.

Published on its own data (PP-HumanSeg14K, not EG1800): mIoU 93.6.
"""

from common import portrait

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    return portrait("pphumanseg", learning_rate=5e-3)
