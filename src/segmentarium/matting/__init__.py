"""From a soft mask to a person in front of another background: mattes, backgrounds, and the product for photos and clips.

    portrait = segmentarium.Portrait("blur")
    portrait("photo.jpg").save("out.jpg")
    portrait.clip("call.mp4", "out.mp4")

Imports no PyTorch, unless an engine that needs it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

if TYPE_CHECKING:
    from segmentarium.matting.backgrounds import parse_background
    from segmentarium.matting.blending import composite
    from segmentarium.matting.matte import Matte, fit_matte
    from segmentarium.matting.portrait import Portrait, PortraitResult

__all__ = ["Matte", "Portrait", "PortraitResult", "composite", "fit_matte", "parse_background"]

# who asks for a matte, or for the words of `finder`, does not import the product
__getattr__ = lazy_names(
    __name__,
    {
        "Matte": "matte",
        "Portrait": "portrait",
        "PortraitResult": "portrait",
        "composite": "blending",
        "fit_matte": "matte",
        "parse_background": "backgrounds",
    },
)
