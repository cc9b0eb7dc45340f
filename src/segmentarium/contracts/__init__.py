"""What the rooms promise each other: `Model` and its kinds, `Term`, `Backbone`, `Decoder`, `MaskDecoder`."""

from segmentarium.contracts.adopted import adopt
from segmentarium.contracts.backbone import Backbone
from segmentarium.contracts.decoder import Decoder, MaskDecoder
from segmentarium.contracts.kinds import (
    Classifier,
    Detector3d,
    InstanceModel,
    KeypointModel,
    MaskModel,
    Pretrainer,
    SegmentationModel,
)
from segmentarium.contracts.model import Batch, LabelledModel, Model, Term
from segmentarium.contracts.results import Boxes3d, Instances, Keypoints, MaskSet, Panoptic, Segment
from segmentarium.preprocessing import Preprocessing

__all__ = [
    "Backbone",
    "Batch",
    "Boxes3d",
    "Classifier",
    "Decoder",
    "Detector3d",
    "InstanceModel",
    "Instances",
    "KeypointModel",
    "Keypoints",
    "LabelledModel",
    "MaskDecoder",
    "MaskModel",
    "MaskSet",
    "Model",
    "Panoptic",
    "Preprocessing",
    "Pretrainer",
    "Segment",
    "SegmentationModel",
    "Term",
    "adopt",
]
