"""What the rooms promise each other: `Model` and its kinds, `Term`, `Backbone`, `Decoder`."""

from segmentarium.contracts.adopted import adopt
from segmentarium.contracts.backbone import Backbone
from segmentarium.contracts.decoder import Decoder
from segmentarium.contracts.kinds import Classifier, SegmentationModel
from segmentarium.contracts.model import Batch, LabelledModel, Model, Term
from segmentarium.preprocessing import Preprocessing

__all__ = [
    "Backbone",
    "Batch",
    "Classifier",
    "Decoder",
    "LabelledModel",
    "Model",
    "Preprocessing",
    "SegmentationModel",
    "Term",
    "adopt",
]
