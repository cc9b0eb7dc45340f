"""ENet in the two stages of its paper: the encoder with a classifier at 1/8, then the whole network from it.

Class weights by the paper's formula, 1 / ln(1.02 + share).  Published on CamVid test at 480×360, from scratch: 51.3.
"""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    encoder = camvid("enet_encoder", max_steps=4000, learning_rate=2e-3, class_weight="auto")
    return [encoder, camvid("enet", max_steps=8000, learning_rate=2e-3, class_weight="auto")]
