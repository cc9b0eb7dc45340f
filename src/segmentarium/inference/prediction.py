"""`predict`: everything from a source to results, whatever kind of model gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import PathLike
from typing import Any

import numpy as np

from segmentarium.checks import check_choice
from segmentarium.contracts import TASKS, Classifier, KeypointModel, asked_task
from segmentarium.inference.classifier import ImageClassifier
from segmentarium.inference.points import KeypointFinder
from segmentarium.inference.poses import PoseFinder
from segmentarium.inference.predictor import ModelSource, Predictor, resolve_model
from segmentarium.inference.segments import SegmentPredictor
from segmentarium.inference.tracking import SegmentTracker
from segmentarium.media import sources
from segmentarium.memory import memory_errors


def predict(
    source: sources.Source,
    model: ModelSource | Predictor | SegmentPredictor | ImageClassifier | KeypointFinder | PoseFinder = "person",
    *,
    task: str | None = None,
    keep_probabilities: bool = False,
    on_error: Callable[[str, Exception], None] | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Results, one after the other, of everything that `source` names: a `Result` of a segmenter, a `SegmentResult` of a mask
    classifier that is asked for segments, a `Classification` of a classifier, `FoundPoints` or `Poses` of a keypoint model.

        for result in segmentarium.predict("photos/", "person", engine="auto"):
            result.save("out", ("overlay", "cutout"))

    source    path, folder, glob, http(s) address, PIL image, a picture's bytes or an open file of them, "-" (standard input),
              uint8 array, tensor, video file (each frame), number of a webcam, or a list of them
    model     as of `Predictor`, or one that is there already: a Predictor, a SegmentPredictor, an ImageClassifier, …
    task      of a mask classifier: "semantic", "instance" or "panoptic"; in a video, segments keep their numbers.  None: as the
              model says (`MaskModel.task`)
    on_error  called with the file's name and the error of a picture that cannot be read, and the rest go on; of a clip that is
              cut off, after its last frame (DamagedError); default: the error is raised
    keep_probabilities  of a segmenter: each result keeps (K, H, W) float16
    options   of `Predictor`, `SegmentPredictor`, `ImageClassifier`, `KeypointFinder` or `PoseFinder`
    """
    items = sources.expand(source)
    check_choice("task", task, (*TASKS, None))
    if isinstance(model, Predictor | SegmentPredictor | ImageClassifier | KeypointFinder | PoseFinder):
        if options or task is not None:
            word, given = type(model).__name__, [*options, *(["task"] if task is not None else [])]
            raise TypeError(f"the {word} has its options already; {', '.join(given)} cannot be given beside it")
        predictor = model
    else:
        loaded = resolve_model(model)
        wanted = asked_task(loaded, task)
        kind: Any = ImageClassifier if isinstance(loaded, Classifier) else Predictor
        if isinstance(loaded, KeypointModel):
            kind = PoseFinder if loaded.joints else KeypointFinder
        if wanted != "semantic":
            kind, options = SegmentPredictor, {**options, "task": wanted}
        predictor = kind(loaded, **options)
        predictor.model_name = str(model) if isinstance(model, str | PathLike) else predictor.model_name
    bits = predictor.model.preprocessing.bits
    if keep_probabilities:
        if isinstance(predictor, ImageClassifier):
            raise TypeError("a classifier's results have their probabilities anyway; leave keep_probabilities out")
        if isinstance(predictor, KeypointFinder | PoseFinder):
            raise TypeError("points have a score each and no probabilities of pixels; leave keep_probabilities out")
        if isinstance(predictor, SegmentPredictor):
            raise TypeError("segments have a score each and no probabilities of pixels; leave keep_probabilities out")
        return _results(items, partial(predictor, keep_probabilities=True), on_error, bits)
    return _results(items, predictor, on_error, bits)


def _results(
    items: list[sources.Item],
    predictor: Callable[..., Any],
    on_error: Callable[[str, Exception], None] | None,
    bits: int | None,
) -> Iterator[Any]:
    with ThreadPoolExecutor(1, "decode") as decoder:  # the next picture is decoded while this one is computed
        coming = decoder.submit(_load, items[0], bits) if items else None
        for i, item in enumerate(items):
            assert coming is not None
            loaded = coming
            coming = decoder.submit(_load, items[i + 1], bits) if i + 1 < len(items) else None
            try:
                array = loaded.result()
                if array is None:
                    yield from _frames(item, predictor)
                    continue
                with memory_errors():
                    result = predictor(array, name=item.name, path=item.path)
            except (ValueError, TypeError, OSError, MemoryError) as error:
                if on_error is None:
                    raise
                on_error(item.origin, error)
                continue
            yield result


def _load(item: sources.Item, bits: int | None) -> np.ndarray | None:
    return item.load(bits) if item.load is not None else None


def _frames(item: sources.Item, predictor: Callable[..., Any]) -> Iterator[Any]:
    from segmentarium.inference.video import open_frames

    tracker = SegmentTracker(predictor.things) if isinstance(predictor, SegmentPredictor) else None
    with open_frames(item) as clip:
        for number, frame in enumerate(clip):
            result = predictor(frame, name=f"{item.name}_{number:06d}", path=item.path)
            if tracker is not None:
                result.segments = tracker.update(result.segments)
            result.facts["frame"] = number
            yield result
