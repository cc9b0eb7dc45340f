"""Label maps by an annotator: a strong network says of every cell of a picture which classes it shows (2104.10858, section 3.2).

    annotate(load("strong.safetensors"), build_dataset("imagefolder", root, "train"), "labels")    # goes on where it was stopped

Three ways, by what the annotator is:

"dense"   a classifier whose scores are those of the mean over its deepest feature: each place of that feature is scored alone,
          which is how the authors made theirs, with NFNet-F6 at 576 pixels.  One pass a picture
"crops"   any other classifier: it looks at a square crop around each cell.  As many passes as cells
"pixels"  a segmenter of the same classes: the mean of its scores over each cell.  One pass a picture

The picture is brought to a square first, so that a cell's place is a share of its height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.contracts import Backbone, Classifier, Model, SegmentationModel
from segmentarium.data import ClassificationDataset
from segmentarium.data.label_maps import BEST, LabelMaps
from segmentarium.inference.classifier import SIZE
from segmentarium.inference.network import Network

CELLS = 14  # rows and columns of a map: the patches of 16 of 224 pixels
Way = Literal["dense", "crops", "pixels"]


def annotate(
    annotator: Model,
    dataset: ClassificationDataset,
    folder: str | Path,
    *,
    cells: int = CELLS,
    size: int | None = None,
    best: int = BEST,
    way: Way | None = None,
    share: float = 0.5,
    device: str | torch.device | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> LabelMaps:
    """Writes a label map for each picture of a data set; those that are there stay, so that a stopped run goes on.

    cells       rows and columns of a map (of "dense": as the annotator's deepest feature has)
    size        pixels of the square that the annotator sees: the picture, or a crop; None: what it says of itself, else 224
    best        classes that are kept of each cell
    way         see above; None: "pixels" for a segmenter, "dense" for a classifier that can, else "crops"
    share       of "crops": a crop's side, as a share of the picture's
    batch_size  of "crops": crops in one pass

    Raises ValueError for an annotator of other classes than the data's, or that cannot be used in that way, and for a folder
    of maps that were made otherwise.
    """
    names = dataset.info.classes
    if not isinstance(annotator, Classifier | SegmentationModel):
        raise ValueError(f"{annotator.title} is a {annotator.kind}; an annotator is a classifier or a segmenter")
    if annotator.num_classes != len(names):
        raise ValueError(
            f"the annotator scores {annotator.num_classes} classes, but the data have {len(names)}; give one of the same classes"
        )
    able = ["pixels"] if isinstance(annotator, SegmentationModel) else ["dense", "crops"]
    if isinstance(annotator, Classifier) and not scores_places(annotator):
        able = ["crops"]
    way = way or able[0]  # type: ignore[assignment]
    if way not in able:
        raise ValueError(f"way is {way!r}, but {annotator.title} can be asked by {' or '.join(able)} only")
    if cells < 1 or not 0 < share <= 1:
        raise ValueError(f"cells is {cells} and share {share}; give 1 or more cells, and a share above 0, up to 1")
    size = size or annotator.preprocessing.crop_size or SIZE
    made_by: dict[str, Any] = {"annotator": annotator.title, "way": way, "size": size, "best": best}
    made_by |= {} if way == "dense" else {"cells": cells}
    made_by |= {"share": share} if way == "crops" else {}
    maps = LabelMaps(folder, names, made_by)
    network = Network(annotator.eval(), "torch", "fp32", device)
    for index in range(len(dataset)):
        name = dataset.name(index)
        if not maps.path(name).is_file():
            pixels = dataset.sample(index)["image"].as_subclass(Tensor)[None]
            if way == "crops":
                scores = _by_crops(network, pixels, cells, size, share, batch_size)
            else:
                square = _scaled(pixels, size)
                scores = _densely(network, square) if way == "dense" else _by_pixels(network, square, cells)
            maps.write(name, scores, best)
        if progress is not None:
            progress(index + 1, len(dataset))
    return maps


def scores_places(annotator: Classifier) -> bool:
    """Whether its scores are those of the mean over its deepest feature, so that each place of that can be scored alone."""
    return type(annotator.backbone).embed is Backbone.embed and annotator.backbone.classifier is not None


def _scaled(pixels: Tensor, size: int) -> Tensor:
    """uint8 (B, C, H, W) -> (B, C, size, size)"""
    scaled = F.interpolate(pixels.float(), (size, size), mode="bilinear", antialias=True)
    return scaled.round_().clamp_(0, 255).byte()


@torch.inference_mode()
def _densely(network: Network, square: Tensor) -> Tensor:
    """(1, C, S, S) -> (K, h, w) of the places of the deepest feature"""
    assert isinstance(network.model, Classifier)
    backbone = network.model.to(network.device).backbone
    deepest = backbone.pyramid(network.preprocessing.normalise(square.to(network.device)))[-1]
    assert backbone.classifier is not None
    places = deepest.flatten(2).transpose(1, 2).flatten(0, 1)  # (h·w, D)
    return backbone.classifier(places).T.unflatten(1, tuple(deepest.shape[-2:])).cpu()


def _by_pixels(network: Network, square: Tensor, cells: int) -> Tensor:
    """(1, C, S, S) -> (K, cells, cells)"""
    return F.adaptive_avg_pool2d(network(square), cells)[0].cpu()


def _by_crops(network: Network, pixels: Tensor, cells: int, size: int, share: float, batch_size: int) -> Tensor:
    """(1, C, H, W) -> (K, cells, cells): what is seen around the middle of each cell, inside the picture"""
    height, width = pixels.shape[-2:]
    rows, columns = max(round(height * share), 1), max(round(width * share), 1)
    crops = []
    for y in range(cells):
        top = min(max(round((y + 0.5) / cells * height - rows / 2), 0), height - rows)
        for x in range(cells):
            left = min(max(round((x + 0.5) / cells * width - columns / 2), 0), width - columns)
            crops.append((top, left))
    found = []
    for begin in range(0, len(crops), batch_size):
        cut = [pixels[..., top : top + rows, left : left + columns] for top, left in crops[begin : begin + batch_size]]
        found.append(network(_scaled(torch.cat(cut), size)).cpu())
    return torch.cat(found).T.unflatten(1, (cells, cells))
