"""What the rooms promise each other: `Model` and its kinds, `Term`, `Backbone`, `Decoder`, `MaskDecoder`, `InstanceDecoder`."""

from segmentarium.contracts.adopted import adopt
from segmentarium.contracts.backbone import Backbone
from segmentarium.contracts.decoder import Decoder, InstanceDecoder, MaskDecoder
from segmentarium.contracts.instance_set import InstanceSet
from segmentarium.contracts.kinds import Classifier, Pretrainer, SegmentationModel
from segmentarium.contracts.model import Batch, LabelledModel, Model, Term
from segmentarium.contracts.point_kinds import Detector3d, KeypointModel
from segmentarium.contracts.results import Boxes3d, Instances, Keypoints, MaskSet, Panoptic, Segment
from segmentarium.contracts.segment_kinds import TASKS, InstanceModel, MaskModel, MaskOutputs, asked_task, task_of
from segmentarium.preprocessing import Preprocessing

__all__ = [
    "TASKS",
    "Backbone",
    "Batch",
    "Boxes3d",
    "Classifier",
    "Decoder",
    "Detector3d",
    "InstanceDecoder",
    "InstanceModel",
    "InstanceSet",
    "Instances",
    "KeypointModel",
    "Keypoints",
    "LabelledModel",
    "MaskDecoder",
    "MaskModel",
    "MaskOutputs",
    "MaskSet",
    "Model",
    "Panoptic",
    "Preprocessing",
    "Pretrainer",
    "Segment",
    "SegmentationModel",
    "Term",
    "adopt",
    "asked_task",
    "task_of",
]
