"""CamVid from what `beit_here.py` learnt, against from scratch: as `camvid_here.py`, for the other backbone.

    R=recipes/pretraining/camvid_beit_here.py
    segmentarium train --recipe $R --seed 0 --output runs/pretraining/camvid/scratch-beit-0
    segmentarium train --recipe $R --seed 0 --output runs/pretraining/camvid/beit-0 --backbone-weights runs/pretraining/beit_mim

Patches are of 16 pixels, and pictures of their own size: as many patches as there.
"""

from beit_here import BEIT
from camvid_here import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    inner = {**BEIT["backbone_arguments"], "image_size": [240, 320]}
    return camvid({**BEIT, "backbone_arguments": inner}, crop_size=(240, 320))
