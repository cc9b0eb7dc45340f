"""SINet in the stages of its paper: the encoder with a classifier at 1/8, then the whole network from it.

Published on EG1800 test: mean IoU 95.2.
"""

from common import portrait

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    rates = {"learning_rate": 5e-3, "weight_decay": 2e-4}
    encoder, _ = portrait("sinet_encoder", steps=8000, **rates)
    return [encoder, *portrait("sinet", steps=16_000, **rates)]
