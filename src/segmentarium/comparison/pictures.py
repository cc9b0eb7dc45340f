"""The same images side by side: photograph, truth, and what each candidate makes of them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmentarium.comparison.outcome import Outcome
from segmentarium.data.image_io import open_image

WIDEST = 640  # pixels of the longer side on the page
FOLDER = "pictures"  # of a candidate: a PNG of class indices for each image


def chosen(length: int, number: int) -> list[int]:
    """`number` indices spread evenly over 0 … length - 1, away from the ends."""
    number = min(number, length)
    return [(2 * i + 1) * length // (2 * number) for i in range(number)]


def predict_pictures(
    model: Any, dataset: Any, indices: Sequence[int], folder: Path, device: Any = None, task: str = "semantic"
) -> None:
    """Writes the classes that the model gives to these images, as `evaluate` scores them: at the labels' size, or one a picture
    with its probability; where `task` tells segments apart, the picture with its segments, and their quality."""
    import torch

    from segmentarium.contracts import Classifier
    from segmentarium.evaluation.classification import PictureScoring
    from segmentarium.evaluation.score import MapScoring
    from segmentarium.evaluation.tally import predicted_classes
    from segmentarium.files import write_json, write_png
    from segmentarium.inference.network import Network
    from segmentarium.inference.predictor import class_probabilities

    if task != "semantic":
        _predict_segments(model, dataset, indices, folder, device, task)
        return
    network = Network(model, "torch", "fp32", device)
    if isinstance(model, Classifier):
        scoring = PictureScoring(model, lambda: network, dataset)
        for index in indices:
            logits = scoring.match.logits(network(scoring.read(index).pixels[None]))
            probability, given = class_probabilities(logits)[0].max(0)
            found = {"class": scoring.match.names[int(given)], "probability": float(probability)}
            write_json(folder / FOLDER / f"{index}.json", found)
        return
    scoring = MapScoring(model, lambda: network, dataset)
    for (sample,), logits in scoring.answers(indices, 1, 1):
        classes = predicted_classes(scoring.match.logits(logits), sample.target.shape)[0]
        write_png(folder / FOLDER / f"{sample.index}.png", Image.fromarray(classes.to(torch.uint8).cpu().numpy()))


def _predict_segments(model: Any, dataset: Any, indices: Sequence[int], folder: Path, device: Any, task: str) -> None:
    from segmentarium.evaluation.segments import SegmentScoring
    from segmentarium.files import write_json, write_png

    scoring = SegmentScoring(model, dataset, task=task, device=device, boundary_ratio=None, worst=len(indices))
    for _ in scoring.run(indices, 1, 1):
        pass
    for found in scoring.tally.worst.images():
        write_png(folder / FOLDER / f"{found.index}.png", Image.fromarray(found.shown["prediction"]))
        write_json(folder / FOLDER / f"{found.index}.json", {"pq": found.quality})


def shown(dataset: Any, indices: Sequence[int], output: Path, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """For each image {"name", "given": [what is known of it], "models": {label: (picture or None, what is said)}}.

    Each of "given" is (heading, picture, what is said); pictures are JPEG bytes.  Candidates whose predictions are not there
    yet are left out.
    """
    rows = []
    for index in indices:
        picture, target = dataset.load(index)
        photo = np.asarray(picture)
        jpeg = _jpeg(_shrunk(photo, Image.Resampling.LANCZOS))
        given: list[tuple[str, bytes | None, str]]
        if dataset.task == "classification":
            given = [("photograph", jpeg, dataset.info.classes[target])]
        elif dataset.task == "segments":
            given = [
                ("photograph", jpeg, ""),
                ("truth (unpainted: not labelled)", _segments(photo, target, dataset), ""),
            ]
        else:
            truth = _overlay(photo, target, _palette(dataset.info))
            given = [("photograph", jpeg, ""), ("truth (unpainted: not labelled)", truth, "")]
        models = {}
        for outcome in outcomes:
            stem = output / "candidates" / outcome.label / FOLDER / str(index)
            if outcome.scores is None:
                continue
            if dataset.task == "segments":
                if (file := stem.with_suffix(".png")).is_file():
                    quality = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))["pq"]
                    with open_image(file, formats=("PNG",)) as image:
                        models[outcome.label] = (_jpeg(np.asarray(image)), f"PQ {100 * quality:.1f}")
            elif (file := stem.with_suffix(".json")).is_file():
                found = json.loads(file.read_text(encoding="utf-8"))
                models[outcome.label] = (None, f"{found['class']} ({100 * found['probability']:.0f} %)")
            elif (file := stem.with_suffix(".png")).is_file():
                palette = _palette(dataset.info)
                with open_image(file, formats=("PNG",)) as image:
                    mask = np.asarray(image)
                score = _miou(mask, target, len(palette))
                said = "" if score is None else f"mIoU {100 * score:.1f}"
                models[outcome.label] = (_overlay(photo, mask, palette), said)
        rows.append({"name": dataset.name(index), "given": given, "models": models})
    return rows


def _palette(info: Any) -> Sequence[tuple[int, int, int]]:
    from segmentarium.evaluation.classes import match_classes

    return match_classes(max(info.num_classes, 2), (), info.classes, info.palette).palette


def _segments(photo: np.ndarray, target: Any, dataset: Any) -> bytes:
    """The labelled segments over the photograph."""
    from segmentarium.evaluation.segments import flattened
    from segmentarium.inference.segment_drawing import segment_overlay
    from segmentarium.inference.segment_map import measured

    flat, regions = flattened(target)
    small = _shrunk(photo, Image.Resampling.LANCZOS)
    rows, columns = (np.arange(n) * full // n for n, full in zip(small.shape[:2], flat.shape, strict=True))
    found = measured(flat.clip(0)[np.ix_(rows, columns)], {i: (one.label, 1.0) for i, one in enumerate(regions, 1)})
    return _jpeg(segment_overlay(small, found, dataset.info.classes, dataset.info.palette, dataset.things))


def _overlay(photo: np.ndarray, mask: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> bytes:
    from segmentarium.inference.drawing import Painter

    small, classes = _shrunk(photo, Image.Resampling.LANCZOS), _shrunk(mask, Image.Resampling.NEAREST)
    painter = Painter((small.shape[1], small.shape[0]), palette, opacity=0.65)
    return _jpeg(painter.paint(small, classes))


def _shrunk(pixels: np.ndarray, how: Image.Resampling) -> np.ndarray:
    factor = WIDEST / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, how))


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def _miou(mask: np.ndarray, target: np.ndarray, count: int) -> float | None:
    import torch

    from segmentarium.evaluation.tally import image_miou

    counted = target < count
    pairs = target[counted].astype(np.int64) * count + mask[counted]
    return image_miou(torch.from_numpy(np.bincount(pairs, minlength=count * count).reshape(count, count)))
