"""STDC1 with detail guidance.  Published on CamVid test with ImageNet pretraining at 960×720: 73.0."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("stdc1")
