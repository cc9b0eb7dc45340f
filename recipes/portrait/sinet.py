"""SINet in the two stages of its paper: the encoder with a classifier at 1/8, then the whole network from it.

Published on EG1800 test: mean IoU 95.2.
"""

from common import portrait

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    encoder = portrait("sinet_encoder", max_steps=8000, learning_rate=5e-3, weight_decay=2e-4)
    return [encoder, portrait("sinet", max_steps=12_000, learning_rate=5e-3, weight_decay=2e-4)]
