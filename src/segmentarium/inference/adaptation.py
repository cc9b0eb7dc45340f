"""Homographic adaptation: a detector labels pictures for its own training, surer than it is on any one view.

A picture is seen under many homographies, each view's scores are brought back, and of each pixel the mean over the views that
showed it is taken (DeTone et al., https://arxiv.org/abs/1712.07629, section 5; the picture itself is the first view; edges of the
views count nowhere).

    adapt("runs/shapes/best.safetensors", "photos", "runs/labelled")

writes a folder that `build_dataset("points", …)` reads, and goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.contracts import KeypointModel
from segmentarium.data.base import require_folder
from segmentarium.data.finding import name_below, pictures_below
from segmentarium.data.homographies import sample_homography, valid_mask
from segmentarium.data.image_io import read_image
from segmentarium.data.points import read_points
from segmentarium.files import atomic_write, write_json

SETTINGS = "adapted.json"


@dataclass(frozen=True)
class Adaptation:
    """How pictures are labelled.

    homographies   views of each picture, itself included
    long_side      pixels of the longer side that pictures are brought to; smaller ones stay
    threshold      a point's score is greater
    radius         pixels around a point within which there is no second
    border         pixels along the edges where there is none
    most           points of a picture, the surest
    margin         pixels along the edges of a view that do not count
    seed           of the homographies, with the picture's name
    """

    homographies: int = 100
    long_side: int = 320
    threshold: float = 0.015
    radius: int = 4
    border: int = 4
    most: int = 600
    margin: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("homographies", 1), ("long_side", 32), ("radius", 0), ("border", 0), ("most", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give {least} or more")


def pictures(root: str | Path) -> dict[str, Path]:
    """The pictures of a folder, by their paths below it without ending.

    Raises FileNotFoundError where there is none, ValueError where two differ in their endings alone.
    """
    root = require_folder(Path(root), "pictures")
    found: dict[str, Path] = {}
    for path in pictures_below(root):
        name = name_below(path, root)
        if name in found:
            raise ValueError(f"{found[name]} and {path} would have one file of points; rename one of them")
        found[name] = path
    if not found:
        raise FileNotFoundError(f"{root} holds no pictures")
    return found


@torch.no_grad()
def adapted_scores(
    model: KeypointModel, image: Tensor, homographies: Sequence[np.ndarray], *, margin: int = 3, batch_size: int = 8
) -> Tensor:
    """A normalised picture (C, H, W) and homographies (3, 3) from it to its views -> (H, W) mean scores of all views.

    Of a pixel those views count that have it in their frame.  `margin` pixels along the picture's own edges a view gives nothing
    but counts, as in the public code: so few points are found there.
    """
    size = (int(image.shape[-2]), int(image.shape[-1]))
    total, seen = model(image[None])[0][0].float().clone(), torch.ones(size, device=image.device)
    for start in range(0, len(homographies), batch_size):
        there = np.stack(homographies[start : start + batch_size])
        back = np.linalg.inv(there)
        shown, counted = (
            torch.from_numpy(np.stack([valid_mask(matrix, size, margin) for matrix in matrices])).to(image.device)
            for matrices in (there, back)
        )
        views = warp(image.expand(len(there), *image.shape), there)
        scores = model(views)[0].float() * shown
        total += (warp(scores[:, None], back)[:, 0] * counted).sum(0)
        seen += counted.sum(0)
    return total / seen


def warp(images: Tensor, homographies: np.ndarray) -> Tensor:
    """Images (B, C, H, W) as homographies (B, 3, 3) between pixels show them; bilinear, 0 outside."""
    height, width = images.shape[-2:]
    inverse = torch.from_numpy(np.linalg.inv(homographies)).to(images.device, torch.float32)
    y, x = torch.meshgrid(
        *(torch.arange(side, device=images.device, dtype=torch.float32) for side in (height, width)), indexing="ij"
    )
    sources = torch.stack((x, y, torch.ones_like(x)), -1).view(1, -1, 3) @ inverse.mT
    grid = (
        sources[..., :2]
        / sources[..., 2:].clamp(min=1e-6)
        * 2
        / torch.tensor((width - 1, height - 1), device=images.device)
        - 1
    )
    return F.grid_sample(images, grid.view(-1, height, width, 2), align_corners=True)


def adapt(
    model: str | Path | KeypointModel,
    source: str | Path,
    out: str | Path,
    settings: Adaptation | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, int]:
    """Labels a folder's pictures by a detector, or by the weights of one -> the number of points of each, by its name.

    progress  called with the pictures that are done, and all
    options   of `label_pictures`, which says what is written and raised
    """
    if isinstance(model, str | Path):
        from segmentarium.weights import load

        model = load(model)  # type: ignore[assignment]
    if not isinstance(model, KeypointModel) or model.joints:
        raise ValueError(f"{getattr(model, 'title', model)!r} finds no points; give weights of superpoint")
    found, points = pictures(source), dict[str, int]()
    for done, (name, number) in enumerate(label_pictures(model, found, out, settings, **options), 1):
        if number is not None:
            points[name] = number
        if progress:
            progress(done, len(found))
    return points


def label_pictures(
    model: KeypointModel,
    found: Mapping[str, Path],
    out: str | Path,
    settings: Adaptation | None = None,
    *,
    batch_size: int = 8,
    precision: str = "fp32",
    device: torch.device | str | None = None,
    overwrite: bool = False,
    failed: Callable[[Path, ValueError], None] | None = None,
) -> Generator[tuple[str, int | None], None, None]:
    """Labels pictures, one file each, and yields each one's name and the number of its points, None where it has no labels.

    Writes OUT/images/NAME.png, grey and as large as its points count, and OUT/points/NAME.npz.  Pictures that have these are
    passed over, where OUT was made by the same weights and settings.

    precision   fp32 or bf16
    overwrite   of a folder that other weights or settings made, everything is made anew
    failed      told of a picture that cannot be read or is too small, which is passed over then

    Raises ValueError where OUT was made by others, and without `failed` for such a picture.
    """
    out, settings = Path(out), settings or Adaptation()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    facts = {"model": model.title, "weights": _digest(model), **dataclasses.asdict(settings)}
    stale = _begin(out, facts, overwrite)
    model = model.deploy().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for name, path in found.items():
        stored = out / "points" / f"{name}.npz"
        if stored.is_file() and not stale:
            yield name, len(read_points(stored)[0])
            continue
        try:
            grey = _brought_to(np.array(read_image(path).convert("L")), settings.long_side, model.stride)
        except ValueError as error:  # an ImageReadError is one
            if failed is None:
                raise
            failed(path, error)
            yield name, None
            continue
        image = torch.from_numpy(grey)[None].expand(model.in_channels, -1, -1)
        image = model.preprocessing.normalise(image).to(device)
        rng = np.random.default_rng((settings.seed, int(hashlib.sha1(name.encode()).hexdigest()[:12], 16)))
        views = [sample_homography(rng, grey.shape) for _ in range(settings.homographies - 1)]
        half = torch.float16 if precision == "fp16" else torch.bfloat16
        with torch.autocast(device.type, half, enabled=precision != "fp32"):
            scores = adapted_scores(model, image, views, margin=settings.margin, batch_size=batch_size)
        peaks = model.peaks(scores[None], threshold=settings.threshold, radius=settings.radius, border=settings.border)[
            0
        ]
        y, x = peaks.nonzero(as_tuple=True)
        best = scores[y, x].argsort(descending=True, stable=True)[: settings.most]
        with atomic_write(out / "images" / f"{name}.png") as temporary:
            temporary.write_bytes(cv2.imencode(".png", grey)[1].tobytes())
        with atomic_write(stored) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                keypoints=torch.stack((x[best], y[best]), 1).float().cpu().numpy(),
                keypoint_scores=scores[y[best], x[best]].cpu().numpy(),
            )
        yield name, len(best)
    if stale:
        write_json(out / SETTINGS, facts)


def _begin(out: Path, facts: dict[str, Any], overwrite: bool) -> bool:
    """Says whose the folder is from here on; True where its points are another's, and are all to be made anew."""
    path = out / SETTINGS
    if not path.is_file():
        if (out / "points").exists():
            raise ValueError(f"{out} holds points that no adaptation made; give another folder")
        write_json(path, facts)
        return False
    earlier = json.loads(path.read_text("utf-8"))
    changed = [name for name in {**earlier, **facts} if earlier.get(name) != facts.get(name)]
    if changed and not overwrite:
        lines = "; ".join(f"{name}: {earlier.get(name)!r} -> {facts.get(name)!r}" for name in changed)
        raise ValueError(f"{out} was labelled otherwise ({lines}); give another folder, or --overwrite to make it anew")
    return bool(changed)


def _digest(model: KeypointModel) -> str:
    """Of the weights, whatever file they came from."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _brought_to(grey: np.ndarray, long_side: int, stride: int) -> np.ndarray:
    """A picture (H, W) made smaller so that its longer side fits, and cut, evenly, to whole cells."""
    factor = min(1.0, long_side / max(grey.shape))
    size = [max(stride, round(side * factor)) for side in grey.shape]
    if factor < 1:
        grey = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)
    if min(grey.shape) < 2 * stride:
        raise ValueError(f"a picture of {grey.shape[1]} × {grey.shape[0]} pixels is too small to be labelled")
    top, left = (side % stride // 2 for side in grey.shape)
    height, width = (side // stride * stride for side in grey.shape)
    return np.ascontiguousarray(grey[top : top + height, left : left + width])
