"""Metrics: label maps in, counts kept in constant memory on their device, numbers from 0 to 1 out."""

from segmentarium.metrics.accumulator import Accumulator
from segmentarium.metrics.average_precision import AveragePrecision
from segmentarium.metrics.boundary import BoundaryIoU, mask_to_boundary
from segmentarium.metrics.calibration import CalibrationError
from segmentarium.metrics.confusion import ConfusionMatrix
from segmentarium.metrics.federated import FederatedAveragePrecision
from segmentarium.metrics.flicker import Flicker
from segmentarium.metrics.panoptic import PanopticQuality
from segmentarium.metrics.topk import TopK

__all__ = [
    "Accumulator",
    "AveragePrecision",
    "BoundaryIoU",
    "CalibrationError",
    "ConfusionMatrix",
    "FederatedAveragePrecision",
    "Flicker",
    "PanopticQuality",
    "TopK",
    "mask_to_boundary",
]
