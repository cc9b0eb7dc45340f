"""MSFNet.  Published on CamVid test at 768×1024: 75.4."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("msfnet")
