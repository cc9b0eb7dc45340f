"""Metrics: label maps in, counts kept in constant memory on their device, numbers from 0 to 1 out."""

from segmentarium.metrics.accumulator import Accumulator
from segmentarium.metrics.boundary import BoundaryIoU, mask_to_boundary
from segmentarium.metrics.calibration import CalibrationError
from segmentarium.metrics.confusion import ConfusionMatrix
from segmentarium.metrics.flicker import Flicker

__all__ = ["Accumulator", "BoundaryIoU", "CalibrationError", "ConfusionMatrix", "Flicker", "mask_to_boundary"]
