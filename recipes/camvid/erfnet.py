"""ERFNet in the two stages of its paper: the encoder with a classifier at 1/8, then the whole network from it.

Class weights as the authors' code has them, ENet's formula.  The paper has no figure for CamVid.
"""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    encoder = camvid("erfnet_encoder", max_steps=4000, class_weight="auto")
    return [encoder, camvid("erfnet", max_steps=8000, class_weight="auto")]
