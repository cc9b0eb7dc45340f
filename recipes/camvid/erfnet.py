"""ERFNet in the two stages of its paper: the encoder with a classifier at 1/8, then the whole network from it.

The class weights that all recipes here share are by the formula of its authors.  The paper has no figure for CamVid.
"""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    return [camvid("erfnet_encoder", max_steps=4000), camvid("erfnet", max_steps=8000)]
