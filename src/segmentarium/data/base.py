"""What every data set here promises: pictures and their labels, decoded the same way, named in every error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from segmentarium.data.bands import read_bands
from segmentarium.data.image_io import IMAGE_SUFFIXES, ImageReadError, read_image
from segmentarium.data.mask_io import RGB, MaskEncoding, read_mask
from segmentarium.labels import IGNORE_INDEX

Sample = dict[str, Any]
Transform = Callable[[Sample], Sample]


@dataclass(frozen=True)
class DatasetInfo:
    """The facts of a data set: its classes, their colours, and its terms of use.

    labelled   False: pictures alone, which have no classes
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[RGB, ...]
    ignore_index: int = IGNORE_INDEX
    licence: str = "unknown"
    url: str = ""
    labelled: bool = True

    def __post_init__(self) -> None:
        if not self.classes and self.labelled:
            raise ValueError(f"data set {self.name!r} has zero classes; name one or more")
        if len(self.classes) != len(self.palette):
            raise ValueError(
                f"data set {self.name!r} has {len(self.classes)} classes but {len(self.palette)} colours; "
                "give one colour a class"
            )

    @property
    def num_classes(self) -> int:
        return len(self.classes)


class PictureDataset(Dataset[Sample]):
    """Pictures and what is to be learnt of each: `dataset[i]` is a dict with "image", the label, and "name".

    `task` says what the label is; see `SegmentationDataset` and `ClassificationDataset`. Without a transform, `image` is
    a `tv_tensors.Image` uint8 (3, H, W); a transform takes and returns such a dict.

    `cache=True` keeps decoded pictures and masks (4 bytes a pixel) in memory once they have been read; `preload()`
    reads them all, so that worker processes started afterwards share one copy.

    Attributes: info (names and colours of the classes), items (where the files lie), split (set by `build_dataset`),
    notes (lines that whoever uses the data should read).
    """

    task: ClassVar[Literal["segmentation", "segments", "classification", "keypoints", "pictures", "pairs"]]
    needs_folder: ClassVar[bool] = True  # it reads files
    takes_patterns: ClassVar[bool] = False  # its root may be a pattern of files
    own_classes: ClassVar[bool] = False  # classes, and values of masks, may be given
    items: Sequence[Any]
    bands: int = 3  # of a picture; with others `load` gives an array (H, W, C)
    bits: int | None = None  # of values deeper than 8: 2 ** bits - 1 is white in all pictures; None: by what each needs
    frequency: tuple[str, ...] | None = None  # "r", "c" or "f" for each class, where the set says how rare they are

    def __init__(self, info: DatasetInfo, transform: Transform | None = None, cache: bool = False) -> None:
        self.info = info
        self.transform = transform
        self.split = ""
        self.notes: list[str] = []
        self.unlisted: list[Path] = []  # pictures that lie there and that no label names: they are left out
        self._cache: dict[int, tuple[np.ndarray, ...]] | None = {} if cache else None

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        """The split that a model is scored on where nobody names one."""
        return "val"

    def __len__(self) -> int:
        return len(self.items)

    def order(self, random: np.random.Generator) -> np.ndarray:
        """The numbers of all pictures, int64 (length,), in the order in which a pass over them visits them."""
        return random.permutation(len(self))

    def name(self, index: int) -> str:
        """The file name of a picture without its ending: what results and errors call it."""
        return self.items[index].image.stem

    def load(self, index: int) -> tuple[Image.Image, Any]:
        """The raw pair: an upright RGB picture and its label; raises ImageReadError for a file that cannot be read."""
        raise NotImplementedError

    def shown(self, index: int) -> set[int]:
        """The classes that picture `index` shows: what sampling by rarity goes by.  It may have to read the label."""
        raise NotImplementedError(f"data set {self.info.name!r} has no classes to be sampled by")

    def sample(self, index: int) -> Sample:
        """The untransformed sample: "image" as a `tv_tensors.Image` uint8 (3, H, W), the label, "name"."""
        from torchvision import tv_tensors  # seconds to import, and not needed to read files

        arrays = self._arrays(index)
        if self._cache is not None:  # what a transform does in place must not reach the cache
            arrays = tuple(array.copy() for array in arrays)
        # The transposed view keeps Pillow's interleaved order, for which torchvision's byte resize is fastest.
        pixels = torch.from_numpy(arrays[0]).permute(2, 0, 1)
        return {"image": tv_tensors.Image(pixels), **self._label(index, arrays), "name": self.name(index)}

    def __getitem__(self, index: int) -> Sample:
        return apply_transform(self.transform, self.sample(index))

    def preload(self, threads: int = 2) -> None:
        """Read everything into the cache; pictures decode in threads.

        Raises:
            ValueError: the data set was built without `cache=True`.
        """
        if self._cache is None:
            raise ValueError(f"data set {self.info.name!r} has no cache; build it with cache=True")
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(self._arrays, range(len(self))):
                pass

    def _arrays(self, index: int) -> tuple[np.ndarray, ...]:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        arrays = self._decode(self.items[index])
        if self._cache is not None:
            self._cache[index] = arrays
        return arrays

    def _decode(self, item: Any) -> tuple[np.ndarray, ...]:
        """What the files of an item hold: the picture uint8 (H, W, C), and what else is worth caching."""
        if self.bands == 3:
            return (np.array(read_image(item.image, bits=self.bits)),)
        return (read_bands(item.image, self.bands, self.bits),)

    def _label(self, index: int, arrays: tuple[np.ndarray, ...]) -> Sample:
        """The part of a sample that is to be learnt."""
        raise NotImplementedError


class Item(NamedTuple):
    """Where one picture and its label image lie; `mask` is None where the set publishes no labels."""

    image: Path
    mask: Path | None


class SegmentationDataset(PictureDataset):
    """Pictures with a class for every pixel.

    `dataset[i]` is `{"image", "mask", "name"}`: `mask` a `tv_tensors.Mask` int64 (H, W) with values 0..K-1, or 255 where
    nothing counts. It reaches a transform as uint8, which resizes and crops four times as fast, and leaves as int64.
    Items without a label image have a mask of 255 everywhere.
    """

    task = "segmentation"
    label_images: ClassVar[bool] = True  # `mask` of an item is a picture, and none that draws outlines

    def __init__(
        self,
        info: DatasetInfo,
        items: Sequence[Item],
        encoding: MaskEncoding,
        transform: Transform | None = None,
        cache: bool = False,
    ) -> None:
        super().__init__(info, transform, cache)
        self.items: Sequence[Item] = items
        self.encoding = encoding
        self.missing_masks: list[Path] = []  # pictures without a label image, where a reader leaves them out
        self.stray_masks: list[Path] = []  # label images without a picture
        self.left_out: list[Path] = []  # files among them that are neither
        self.second_masks: list[Item] = []  # further label images of pictures that have one

    def load(self, index: int) -> tuple[Any, np.ndarray]:
        """The raw pair: an upright RGB picture (or an array of other bands) and class indices uint8 (H, W), 0..K-1 and 255.

        Raises:
            ImageReadError: a file cannot be read, or the mask has another size than the picture.
            LabelError: the mask has values outside the classes.
        """
        image, mask = self._arrays(index)
        return Image.fromarray(image) if self.bands == 3 else image, mask

    def read_label(self, item: Any) -> np.ndarray:
        """Class indices uint8 (H, W) of an item that has labels; raises as `load` does."""
        return read_mask(item.mask, self.encoding)

    def shown(self, index: int) -> set[int]:
        return set(np.unique(self._arrays(index)[1]).tolist()) - {IGNORE_INDEX}

    def _label(self, index: int, arrays: tuple[np.ndarray, ...]) -> Sample:
        from torchvision import tv_tensors

        return {"mask": tv_tensors.Mask(torch.from_numpy(arrays[1]))}

    def _decode(self, item: Item) -> tuple[np.ndarray, ...]:
        (image,) = super()._decode(item)
        if item.mask is None:
            return image, np.full(image.shape[:2], IGNORE_INDEX, np.uint8)
        mask = self.read_label(item)
        if mask.shape != image.shape[:2]:
            raise ImageReadError(
                f"{item.mask} has {mask.shape[1]} x {mask.shape[0]} pixels, but its picture {item.image} has "
                f"{image.shape[1]} x {image.shape[0]}; save both in the same size"
                + (" (the picture may carry an EXIF rotation)" if mask.shape == image.shape[1::-1] else "")
            )
        return image, mask


class LabelledPicture(NamedTuple):
    """Where a picture lies, the index of its class, and which part of the set (train, val, test) it belongs to."""

    image: Path
    label: int
    part: str


class ClassificationDataset(PictureDataset):
    """Pictures with one class each: `dataset[i]` is `{"image", "label", "name"}`, `label` an int, 0..K-1."""

    task = "classification"

    def __init__(
        self,
        info: DatasetInfo,
        items: Sequence[LabelledPicture],
        transform: Transform | None = None,
        cache: bool = False,
    ) -> None:
        super().__init__(info, transform, cache)
        self.items: Sequence[LabelledPicture] = items

    def name(self, index: int) -> str:
        """The folder and the file name of a picture without its ending, which is what tells pictures apart here."""
        image = self.items[index].image
        return f"{image.parent.name}/{image.stem}"

    def load(self, index: int) -> tuple[Image.Image, int]:
        """An upright RGB picture and its class; raises ImageReadError for a file that cannot be read."""
        return Image.fromarray(self._arrays(index)[0]), self.items[index].label

    def shown(self, index: int) -> set[int]:
        return {self.items[index].label}

    def counts(self) -> list[int]:
        """How many pictures each class has."""
        return np.bincount([item.label for item in self.items], minlength=self.info.num_classes).tolist()

    def _label(self, index: int, arrays: tuple[np.ndarray, ...]) -> Sample:
        return {"label": self.items[index].label}


def apply_transform(transform: Transform | None, sample: Sample) -> Sample:
    """The sample after the transform (None: as it is), with a mask as int64."""
    if transform is not None:
        sample = transform(sample)
    mask = sample.get("mask")
    if mask is not None and mask.dtype != torch.int64:
        from torchvision import tv_tensors

        sample["mask"] = tv_tensors.Mask(mask.to(torch.int64))
    return sample


def require_folder(path: Path, what: str) -> Path:
    """The folder itself; a FileNotFoundError that says what should lie there if it is missing."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder; expected {what}")
    return path


def index_by_stem(folder: Path, suffixes: frozenset[str] | set[str]) -> dict[str, Path]:
    """File stem -> path for the files of a folder that have one of the endings (lower case, with the dot)."""
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in suffixes and p.is_file()}


def inner_folder(root: str | Path, inner: str, marker: str) -> Path:
    """`root/inner` where that exists and `root/marker` does not; else root: sets are unpacked at either depth."""
    root = Path(root)
    return root / inner if not (root / marker).is_dir() and (root / inner).is_dir() else root


def pair_folders(images: Path, masks: Path | None) -> list[Item]:
    """Pictures of one folder with the PNG of the same name in another (None: without label images).

    Raises:
        FileNotFoundError: there are no pictures, or pictures without a label image.
    """
    pictures = index_by_stem(images, IMAGE_SUFFIXES)
    if not pictures:
        raise FileNotFoundError(f"{images} holds no pictures")
    if masks is None:
        return [Item(path, None) for path in pictures.values()]
    missing = [name for name in pictures if not (masks / f"{name}.png").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{masks} has no label image for {len(missing)} of {len(pictures)} pictures: {', '.join(missing[:5])}"
        )
    return [Item(path, masks / f"{name}.png") for name, path in pictures.items()]
