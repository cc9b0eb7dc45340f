"""Data sets, transforms, samplers and the data doctor.

Names are loaded when they are first used, so that reading a picture does not import torchvision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

if TYPE_CHECKING:
    from segmentarium.data.base import ClassificationDataset, DatasetInfo, Item, PictureDataset, SegmentationDataset
    from segmentarium.data.catalogue import UnknownDatasetError, build_dataset, evaluation_split, list_datasets
    from segmentarium.data.classification import (
        MixPictures,
        classification_eval_transform,
        classification_train_transform,
        collate_pictures,
        middle_crop,
        picture_size,
    )
    from segmentarium.data.doctor import Report, check_data
    from segmentarium.data.image_io import ImageReadError, read_image
    from segmentarium.data.mask_io import LabelError, MaskEncoding, parse_mask_map, read_mask
    from segmentarium.data.mosaic import Mosaic
    from segmentarium.data.repeat_factors import RepeatFactorSampler, classes_shown, image_factors
    from segmentarium.data.samplers import InfiniteSampler, TrainingStream
    from segmentarium.data.segment_transforms import segment_train_transform
    from segmentarium.data.segments import Region, Segmentation, SegmentDataset, SegmentError
    from segmentarium.data.transforms import eval_transform, train_transform

_HOMES = {
    "base": ("ClassificationDataset", "DatasetInfo", "Item", "PictureDataset", "SegmentationDataset"),
    "catalogue": ("UnknownDatasetError", "build_dataset", "evaluation_split", "list_datasets"),
    "classification": (
        "MixPictures",
        "classification_eval_transform",
        "classification_train_transform",
        "collate_pictures",
        "middle_crop",
        "picture_size",
    ),
    "doctor": ("Report", "check_data"),
    "image_io": ("ImageReadError", "read_image"),
    "mask_io": ("LabelError", "MaskEncoding", "parse_mask_map", "read_mask"),
    "repeat_factors": ("RepeatFactorSampler", "classes_shown", "image_factors"),
    "samplers": ("InfiniteSampler", "TrainingStream"),
    "mosaic": ("Mosaic",),
    "segment_transforms": ("segment_train_transform",),
    "segments": ("Region", "SegmentDataset", "SegmentError", "Segmentation"),
    "transforms": ("eval_transform", "train_transform"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ClassificationDataset",
    "DatasetInfo",
    "ImageReadError",
    "InfiniteSampler",
    "Item",
    "LabelError",
    "MaskEncoding",
    "MixPictures",
    "Mosaic",
    "PictureDataset",
    "Region",
    "RepeatFactorSampler",
    "Report",
    "SegmentDataset",
    "SegmentError",
    "Segmentation",
    "SegmentationDataset",
    "TrainingStream",
    "UnknownDatasetError",
    "build_dataset",
    "check_data",
    "classes_shown",
    "classification_eval_transform",
    "classification_train_transform",
    "collate_pictures",
    "eval_transform",
    "evaluation_split",
    "image_factors",
    "list_datasets",
    "middle_crop",
    "parse_mask_map",
    "picture_size",
    "read_image",
    "read_mask",
    "segment_train_transform",
    "train_transform",
]


__getattr__ = lazy_names(__name__, _HOME_OF)
