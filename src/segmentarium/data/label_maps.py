"""Label maps: which classes an annotator sees in each cell of a picture, stored once for a whole data set.

    FOLDER/annotator.json        the classes, and how the maps were made
    FOLDER/<class>/<name>.npz    "scores" float16 (K, h, w) of the K best classes of each cell, before a softmax, and "classes"
                                 uint16 (K, h, w): which these are (Jiang et al., 2104.10858, section 3.2: five of them)

`inference.annotation` writes them; a network that is trained by token labeling learns from them (`--token-labels FOLDER`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as F

from segmentarium.data.base import Sample
from segmentarium.data.text_files import read_json
from segmentarium.files import atomic_write, write_json

DESCRIPTION = "annotator.json"
BEST = 5  # classes that are kept of each cell
RATIO = [3 / 4, 4 / 3]


class LabelMaps:
    """A folder of label maps, which is made where there is none.

    classes    names of the classes that the maps tell
    made_by    what else decides what they say: a folder that holds others is refused

    Raises ValueError for a folder whose maps tell other classes, or were made otherwise.
    """

    def __init__(self, folder: str | Path, classes: Sequence[str], made_by: Mapping[str, Any] | None = None) -> None:
        self.folder, self.classes = Path(folder), tuple(classes)
        place = self.folder / DESCRIPTION
        if made_by is not None and not place.is_file():
            write_json(place, {"classes": list(classes), **made_by})
        if not place.is_file():
            raise FileNotFoundError(f"{self.folder} holds no label maps: there is no {DESCRIPTION}")
        said = read_json(place)
        if tuple(said.get("classes", ())) != self.classes:
            raise ValueError(
                f"the label maps in {self.folder} tell {len(said.get('classes', ()))} classes "
                f"({', '.join(said.get('classes', ())[:4])}, …), the data have {len(classes)} ({', '.join(classes[:4])}, …)"
            )
        other = {key: (said.get(key), value) for key, value in (made_by or {}).items() if said.get(key) != value}
        if other:
            told = ", ".join(f"{key} {old!r}, now {new!r}" for key, (old, new) in other.items())
            raise ValueError(f"the label maps in {self.folder} were made otherwise ({told}); give another folder")

    def path(self, name: str) -> Path:
        """Where the map of the picture `name` lies."""
        return self.folder / f"{name}.npz"

    def write(self, name: str, scores: Tensor, best: int = BEST) -> None:
        """Scores (C, h, w) of all classes -> the file of the best, whole or not at all."""
        kept, classes = scores.float().topk(min(best, len(scores)), 0)
        arrays = {"scores": kept.half().cpu().numpy(), "classes": classes.cpu().numpy().astype(np.uint16)}
        with atomic_write(self.path(name)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        """-> scores float32 (K, h, w) and classes int64 (K, h, w).  ValueError for a map that is not there, or is damaged."""
        path = self.path(name)
        try:
            with np.load(path, allow_pickle=False) as stored:
                scores, classes = stored["scores"].astype(np.float32), stored["classes"].astype(np.int64)
        except (OSError, ValueError, KeyError, EOFError) as error:
            why = "is not there" if not path.exists() else f"cannot be read ({error})"
            raise ValueError(f"the label map {path} {why}; annotate the data set again, what is whole stays") from error
        if scores.ndim != 3 or scores.shape != classes.shape or int(classes.max(initial=0)) >= len(self.classes):
            raise ValueError(
                f"{path} holds scores {scores.shape} and classes {classes.shape}; expected (K, h, w) twice"
            )
        return torch.from_numpy(scores), torch.from_numpy(classes)


class LabelMapView:
    """Training: a random box of a picture with what the annotator says of it, for `data.token_labels.token_targets`.

    {"image" uint8 (3, H, W), "label", "name"} -> "image" float32 (3, size, size), "label", "name", "scores" and "classes"
    (K, h, w) of the whole picture, and "box" (4,): left, top, width and height of the crop, as shares of the picture's.  Of a
    mirrored picture the map is mirrored, too.

    changes   what is done to the crop last: colours, and the values that the network takes
    """

    def __init__(
        self, maps: LabelMaps, size: int, *, area: tuple[float, float], flip: float, changes: Sequence[Any]
    ) -> None:
        self.maps, self.size, self.area, self.flip = maps, size, area, flip
        self.changes = v2.Compose(changes)

    def __call__(self, sample: Sample) -> Sample:
        image = sample["image"]
        scores, classes = self.maps.read(sample["name"])
        height, width = image.shape[-2:]
        top, left, rows, columns = RandomResizedCrop.get_params(image, list(self.area), RATIO)
        if self.flip and torch.rand(()).item() < self.flip:
            image, scores, classes = F.horizontal_flip(image), scores.flip(-1), classes.flip(-1)
        crop = F.resized_crop(image, top, left, rows, columns, [self.size, self.size], antialias=True)
        box = torch.tensor([left / width, top / height, columns / width, rows / height])
        seen = {key: sample[key] for key in ("label", "name")}
        return {**seen, "image": self.changes(crop), "scores": scores, "classes": classes, "box": box}
