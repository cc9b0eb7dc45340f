"""`Portrait`: a model and a background; pictures and clips in, the person in front of it out."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

import numpy as np
from PIL import Image

from segmentarium.matting.backgrounds import BackgroundLike, Clip, Rows, Transparent, parse_background
from segmentarium.matting.blending import composite
from segmentarium.matting.cutout import BAND, guide_of, guide_size, still_erased, transparent, without_holes
from segmentarium.matting.exported import SUFFIX, ExportedPredictor, exported_file
from segmentarium.matting.finder import ForegroundFinder, no_foreground, scaled
from segmentarium.matting.matte import Matte, fit_matte
from segmentarium.matting.regions import Hold, People, check_hold, check_people, decided, with_held
from segmentarium.matting.second_look import look_closer
from segmentarium.media import sources
from segmentarium.media.readers import ArrayRows
from segmentarium.media.showing import Shown
from segmentarium.media.sources import displayed

if TYPE_CHECKING:
    from segmentarium.inference.predictor import ModelSource
    from segmentarium.matting.clip import ClipResult

Quality = Literal["standard", "high"]

STANDARD, HIGH = "person", "person_large"  # the shipped weights: for anything, and for photos that may take longer
SCALES = (1.2, 1.0, 0.8)  # at which photos are looked at: details in the first, in the last what belongs together
log = logging.getLogger(__name__)

NOBODY = 0.002  # share of the picture, or on average of the frames, below which nobody is there


def is_nobody(share: float) -> bool:
    """Whether so little of a picture, or of the frames of a clip, is a person that nobody was found; `share` 0..1."""
    return share < NOBODY


def predictor_for(model: ModelSource | ForegroundFinder, **options: Any) -> ForegroundFinder:
    """What finds the person: without PyTorch where the network is at hand as ONNX and no option needs it."""
    if isinstance(model, ForegroundFinder):
        if options:
            raise TypeError(f"a predictor has its options already; {', '.join(options)} cannot be given beside it")
        return model
    path = exported_file(model)
    if path is not None and options.keys() <= {"foreground"}:
        return ExportedPredictor(model, **options)  # type: ignore[arg-type] - a name or a path
    if path is not None and str(model).endswith(SUFFIX):
        raise ValueError(
            f"{path} runs in ONNX Runtime on the processor; {', '.join(options)} can be given with the weights it is made of"
        )
    from segmentarium.inference.predictor import Predictor

    return Predictor(model, **options)


@dataclass(repr=False)
class PortraitResult(Shown):
    """One picture done.

    pixels  (H, W, 3) uint8 RGB, or (H, W, 4) RGBA in front of nothing
    alpha   (H, W) uint8: how far each pixel belongs to the person
    share   of the picture that the person takes, 0..1; `nobody`: next to nothing
    """

    pixels: np.ndarray
    alpha: np.ndarray
    share: float
    name: str = "image"
    facts: dict[str, Any] = field(default_factory=dict)

    def told(self) -> str:
        height, width = self.alpha.shape
        return f"{self.name!r}, {width}×{height}, {'nobody' if self.nobody else f'a person of {self.share:.0%}'}"

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)

    @property
    def picture(self) -> Image.Image:
        return self.image

    @property
    def nobody(self) -> bool:
        return is_nobody(self.share)

    def save(self, path: str | PathLike[str], *, name: str | None = None, overwrite: bool = False) -> list[Path]:
        """Writes the picture, whole or not at all; the suffix says the format.  The files are returned, as of every result.

        path   the file, or a folder: NAME.png is written into it
        name   instead of the source's own

        Raises ValueError where it cannot hold the alpha, FileExistsError where the file is there, unless `overwrite`.
        """
        from segmentarium.files import atomic_write, check_targets
        from segmentarium.matting.picture_files import check_suffix, write_picture

        target = Path(path)
        if not target.suffix or target.is_dir():
            target = target / f"{name or self.name}.png"
        check_suffix(target, transparent=self.pixels.shape[2] == 4)
        check_targets([target], overwrite=overwrite)
        with atomic_write(target) as temporary:
            write_picture(self.pixels, temporary, target.suffix.lower())
        return [target]


class Portrait:
    """Puts the person of a picture or clip in front of another background.

        portrait = Portrait("blur")
        portrait("photo.jpg").save("out.jpg")
        portrait.clip("call.mp4", "out.mp4")

    background  "blur", "blur:STRENGTH", "transparent", a colour, an image or a video, see `parse_background`
    model       as of `Predictor`, or a predictor, or the .onnx file of an export; its foreground class is who stays
    quality     "high": photos by a network six times as large (`person_large`) in place of `person`; clips stay with `person`
    views       pictures (not clips) are looked at in three sizes, and mirrored: five times the network's time, a calmer mask
    second_look of pictures: people who are small are looked at once more, from nearer
    people      of pictures: who stays where there are several: "all", the "largest", or so many of the largest
    hold        of pictures: "keep" what people seem to hold, "drop" it; None: as the network says
    options     of `Predictor`: engine, precision, device, foreground, …

    Of networks that are at hand as ONNX ("person", or an .onnx file) nothing imports PyTorch, unless options ask for it.
    """

    def __init__(
        self,
        background: BackgroundLike = "blur",
        model: ModelSource | ForegroundFinder = "person",
        *,
        quality: Quality = "standard",
        views: bool = True,
        second_look: bool = True,
        people: People = "all",
        hold: Hold | None = None,
        **options: Any,
    ) -> None:
        self.background = parse_background(background)
        if quality not in get_args(Quality):
            raise ValueError(f"quality is {quality!r}; give standard or high")
        if quality == "high" and model != STANDARD:
            raise ValueError(
                f"quality high is {HIGH} in place of {STANDARD}; a model of your own has the quality it has"
            )
        self.predictor, self._standard = self._predictors(model, quality, options)
        if self.predictor.foreground is None:
            raise ValueError(no_foreground(self.predictor.classes))
        check_people(people)
        check_hold(hold)
        self.views, self.second_look = views, second_look
        self.people: People = people
        self.hold: Hold | None = hold

    @staticmethod
    def _predictors(
        model: ModelSource | ForegroundFinder, quality: Quality, options: dict[str, Any]
    ) -> tuple[ForegroundFinder, Callable[[], ForegroundFinder] | None]:
        """What finds the person of photos, and, where that is another, what makes the one for clips."""
        if quality == "standard":
            return predictor_for(model, **options), None
        try:
            return predictor_for(HIGH, **options), partial(predictor_for, STANDARD, **options)
        except (OSError, ImportError, MemoryError) as error:  # its file is not there, or it does not fit
            log.warning("%s cannot be had (%s): photos are done by %s", HIGH, error, STANDARD)
            return predictor_for(STANDARD, **options), None

    @property
    def transparent(self) -> bool:
        return isinstance(self.background, Transparent)

    def __call__(self, image: Any, *, name: str = "image") -> PortraitResult:
        """The result of one picture: a path, PIL image, (H, W), (H, W, 3 or 4) array, or (C, H, W) tensor.

        What is transparent already stays so.
        """
        if isinstance(image, str | PathLike):
            items = sources.expand(image)
            if len(items) != 1 or items[0].load is None:
                raise ValueError(f"{image} is not one picture; clips are for Portrait.clip")
            image, name = items[0].load_with_alpha(), items[0].name
        started = time.perf_counter()
        array = sources.to_array(image)
        erased = sources.own_alpha(array)
        array = displayed(array)
        height, width = array.shape[:2]
        matte = self.matte(array)
        pixels = np.empty((height, width, 4 if self.transparent else 3), np.uint8)
        alpha = np.empty((height, width), np.uint8)
        for top, rows, part in self.bands(ArrayRows(array, erased), matte):
            pixels[top : top + len(rows)], alpha[top : top + len(rows)] = rows, part
        facts = self.predictor.facts(time.perf_counter() - started)
        return PortraitResult(pixels, alpha, float(alpha.mean() / 255), name, facts)

    def matte(self, image: np.ndarray) -> Matte:
        """The matte of a picture (H, W, 3) uint8."""
        height, width = image.shape[:2]
        return self.matte_of_guide(scaled(image, guide_size((height, width))), (height, width))

    def matte_of_guide(self, small: np.ndarray, size: tuple[int, int]) -> Matte:
        """The matte of a picture of `size` (H, W), of which only a small copy (h, w, 3) uint8 is at hand."""
        find = self.predictor.probability
        probability = find(small, flip=self.views, scales=SCALES if self.views else (1.0,))
        if self.second_look:
            probability = look_closer(partial(find, flip=self.views), small, probability)
        if self.hold is not None:
            probability = with_held(probability, self.hold)
        return fit_matte(guide_of(small), decided(without_holes(probability), self.people), size)

    def bands(self, picture: Any, matte: Matte) -> Any:
        """(top, rows (n, W, 3 or 4), their alpha (n, W)), downwards, of a picture that has `array` and `alpha` of (top, bottom).

        What is transparent in it stays so.
        """
        if isinstance(self.background, Clip):
            raise ValueError("a video cannot be the background of a picture; give an image, or put it behind a clip")
        behind = None if self.transparent else Rows(self.background, matte)
        height = matte.size[0]
        for top in range(0, height, BAND):
            bottom = min(top + BAND, height)
            alpha, own = matte.rows(picture.array(top, bottom), top)
            alpha = still_erased(alpha, picture.alpha(top, bottom))
            if behind is None:
                yield top, transparent(own, alpha), alpha
            else:
                yield top, composite(own, alpha, behind.rows(top, bottom)), alpha

    def file(self, path: str | PathLike[str], out: str | PathLike[str], *, overwrite: bool = False) -> float:
        """`self(path).save(out)`; pictures above 40 megapixels are read, done and written in rows.  The person's share, 0..1.

        Raises ImageReadError for a file that is no picture or damaged, ValueError for an `out` that cannot hold the result,
        FileExistsError for one that is there, unless `overwrite`.
        """  # fmt: skip
        from segmentarium.matting.picture_files import convert

        return convert(self, Path(path), Path(out), overwrite=overwrite)

    def for_clips(self) -> Portrait:
        """The same with the network that clips are done by: itself, unless its quality is high."""
        if self._standard is None:
            return self
        log.warning("clips are done by %s; %s is for photos", STANDARD, HIGH)
        other = copy.copy(self)
        other.predictor, other._standard = self._standard(), None
        return other

    def clip(
        self,
        source: str | PathLike[str] | int | BinaryIO,
        out: str | PathLike[str] | BinaryIO,
        *,
        alpha_format: str = "webm",
        overwrite: bool = False,
        progress: Callable[[int, int | None], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> ClipResult:
        """A clip with its sound, see `segmentarium.matting.clip.convert_clip`."""
        from segmentarium.matting.clip import convert_clip

        return convert_clip(
            self.for_clips(), source, out, alpha_format=alpha_format, overwrite=overwrite, progress=progress, stop=stop
        )
