"""PortraitNet with its boundary head and its consistency with a copy in other light.

Published on EG1800 test, from an encoder trained on ImageNet: mean IoU 96.62.  Here too, where `start.py` beside
it has made that start; else from scratch.
"""

from pathlib import Path

from common import portrait
from start import START

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    return portrait("portraitnet", weights=START if Path(START).is_file() else None, learning_rate=1e-3)
