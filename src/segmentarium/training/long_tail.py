"""What a detector's losses of long tails must know of the training data, counted when a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segmentarium.data import SegmentDataset
from segmentarium.data.class_frequency import object_counts
from segmentarium.data.lvis import LVIS
from segmentarium.instances.class_scores import LONG_TAIL, long_tail_arguments


def counted(arguments: Mapping[str, Any], dataset: SegmentDataset) -> dict[str, Any]:
    """A model's arguments, completed where `class_loss` names a loss of long tails and does not say what it counts by:

        segmentarium train --model mask_rcnn_resnet50 --data lvis --set class_loss=bags

    has the classifier, its groups and the loss's.  What is given stays as it is.
    """
    name = arguments.get("class_loss")
    if name not in LONG_TAIL or "class_loss_arguments" in arguments:
        return dict(arguments)
    if isinstance(dataset, LVIS):  # which says it, of the whole training set
        images, instances = dataset.image_counts, dataset.instance_counts
    else:
        images, instances = object_counts(dataset)
    return {**long_tail_arguments(name, images, instances, len(dataset)), **arguments}
