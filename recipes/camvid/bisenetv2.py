"""BiSeNet V2.  Published on CamVid test at 960×720, from scratch: 72.4."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("bisenetv2")
