"""From a soft mask to a person in front of another background: mattes, backgrounds, and the product for photos and clips.

portrait = segmentarium.Portrait("blur")
portrait("photo.jpg").save("out.jpg")
portrait.clip("call.mp4", "out.mp4")
"""

from __future__ import annotations

from segmentarium.inference.matte import Matte, fit_matte
from segmentarium.matting.backgrounds import parse_background
from segmentarium.matting.composite import composite
from segmentarium.matting.portrait import Portrait, PortraitResult

__all__ = ["Matte", "Portrait", "PortraitResult", "composite", "fit_matte", "parse_background"]
