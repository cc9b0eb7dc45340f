"""What a run takes where nobody says: by the pictures, the network and the machine.

`TrainingOptions` is a whole record, and what it holds by itself is what most papers of convolutional networks do (SGD at 0.01,
40,000 steps of 16 crops): `--recipe paper`.  `segmentarium train` without it, and `train(model=…, …)` by keywords, leave open
what was not said, and `fitted` closes it:

    crops       about 70 % of the sides of the pictures, in steps of 32, from 64 to 512 pixels
    batch       8 crops, 16 from a thousand pictures on; in passes that fit into memory (see `probe.py`)
    steps       40 rounds over the pictures, 4,000 crops at least, 40,000 steps at most; on a processor alone half as much
    optimiser   AdamW at 1e-3 with a clipped gradient, a rate that convolutional networks bear; `Card.training` of a network,
                or of its backbone, says what it needs otherwise
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from segmentarium.checks import did_you_mean
from segmentarium.data.bands import picture_size
from segmentarium.data.image_io import ImageReadError
from segmentarium.registry import TOKENS, entry
from segmentarium.training.options import FITTED, TrainingOptions, resumed_options

USUAL: Mapping[str, Any] = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "clip_norm": 1.0}
OF_KIND: Mapping[str, Mapping[str, Any]] = {
    "mask": {"learning_rate": 1e-4, "weight_decay": 0.05},
    "instances": {"learning_rate": 1e-4},
    "pretrainer": {"learning_rate": 1.5e-4, "weight_decay": 0.05},
}
STARTED = 0.3  # of the rate, where the network starts from weights
ROUNDS, LEAST_CROPS, MOST_STEPS = 40, 4_000, 40_000
SLOW = 0.5  # of these, where no accelerator is
SMALL, MANY = (8, 1_000), 16  # crops of a batch below so many pictures, and from there on
WARMUP, VALIDATIONS = 100, 10
CROPPED, LEAST_SIDE, MOST_SIDE = 0.7, 64, 512
LOOKED_AT = 64  # pictures whose sizes are read


def open_options(values: Mapping[str, Any]) -> tuple[TrainingOptions, tuple[str, ...]]:
    """The options of keywords, or of the run that they resume, and the names that are open: for `fitted` to close.

    Raises ValueError for a keyword that is no option.
    """
    known = [item.name for item in fields(TrainingOptions)]
    for name in values:
        if name not in known:
            raise ValueError(f"there is no training option {name!r}{did_you_mean(name, known)}")
    options = resumed_options(TrainingOptions().changed(dict(values)), dict(values))
    return options, tuple(name for name in FITTED if name not in values)


def fitted(
    options: TrainingOptions, names: Collection[str], task: Any, processes: int = 1, device: str = "cpu"
) -> tuple[TrainingOptions, str]:
    """The options with the open `names` set by the task's pictures, the network and the kind of `device`; and a line that says
    what was taken."""
    pictures, found = len(task.train_set), {}
    if not pictures:
        raise ValueError(f"split {options.train_split!r} of {options.root} has no images; there is nothing to train on")
    found |= needs(options, names)
    if entry(_registered(options)).kind in ("segmenter", "mask", "instances"):
        found["crop_size"] = crop_for(task.train_set, options.long_side)
    batch = SMALL[0] if pictures < SMALL[1] else MANY
    found["batch_size"] = -(-max(batch, 2 * processes) // processes) * processes
    found = {name: value for name, value in found.items() if name in names}
    options = options.replace(**found)
    if "max_steps" in names:
        slow = SLOW if device == "cpu" else 1.0
        crops = max(ROUNDS * pictures, LEAST_CROPS) * slow
        found["max_steps"] = max(1, min(math.ceil(crops / options.batch_size), round(MOST_STEPS * slow)))
        options = options.replace(max_steps=found["max_steps"])
    late = {
        "warmup_steps": min(WARMUP, options.max_steps // 10),
        "val_every": max(1, min(1000, options.max_steps // VALIDATIONS)),
    }
    options = options.replace(**{name: value for name, value in late.items() if name in names and name not in found})
    return options, _line(found, options)


def needs(options: TrainingOptions, names: Collection[str]) -> dict[str, Any]:
    """What the network is optimised by, of the open `names`: the usual, the kind's, the backbone's, its own."""
    name = _registered(options)
    own = entry(name)
    backbone = {**own.arguments, **options.model_arguments}.get("backbone")
    below = _asked(backbone) if isinstance(backbone, str) else {}
    layers = [USUAL, OF_KIND.get(own.kind, {}), below]
    rate = min(layer["learning_rate"] for layer in layers if "learning_rate" in layer)
    found = {**layers[0], **layers[1], **layers[2], "learning_rate": rate, **_asked(name)}
    if options.weights is not None:
        found["learning_rate"] *= STARTED
    if "optimizer" not in names and options.optimizer == "sgd":  # whoever wants it wants its rate, too
        found = {key: value for key, value in found.items() if key not in ("learning_rate", "weight_decay")}
    return {key: value for key, value in found.items() if key in names}


def _registered(options: TrainingOptions) -> str:
    """The name of the network without that of its weights."""
    return options.model if options.model.startswith("timm:") else options.model.partition(".")[0]


def _asked(name: str) -> Mapping[str, Any]:
    """What a network's card asks for; of timm's, which have none of ours, what their norms tell."""
    if not name.startswith("timm:"):
        return entry(name).card.training
    from segmentarium.backbones.timm import normed_by_layer

    return TOKENS if normed_by_layer(name.removeprefix("timm:")) else {}


def _line(found: Mapping[str, Any], options: TrainingOptions) -> str:
    shown = {
        "crop_size": lambda size: f"crops of {size[0]}×{size[1]}",
        "batch_size": lambda number: f"{number} of them a step",
        "max_steps": lambda number: f"{number} steps",
        "optimizer": str,
        "learning_rate": lambda rate: f"rate {rate:g}",
        "clip_norm": lambda norm: f"gradient clipped to {norm:g}",
    }
    words = [say(getattr(options, name)) for name, say in shown.items() if name in found]
    return (
        f"taken      {', '.join(words)}: by the pictures and the network; say otherwise, or take --recipe paper"
        if words
        else ""
    )


def crop_for(dataset: Any, long_side: int | None = None) -> tuple[int, int]:
    """(height, width) of crops: about 70 % of a usual picture's sides, multiples of 32."""
    sides = _median_size(dataset)
    if long_side is not None:
        sides = sides * (long_side / sides.max())
    height, width = (int(min(MOST_SIDE, max(LEAST_SIDE, 32 * round(CROPPED * side / 32)))) for side in sides)
    return height, width


def _median_size(dataset: Any) -> np.ndarray:
    """(height, width), of the files' heads where there are files."""
    chosen = np.linspace(0, len(dataset) - 1, min(LOOKED_AT, len(dataset))).astype(int)
    items: Any = getattr(dataset, "items", ())
    sizes = []
    for index in chosen.tolist():
        try:
            sizes.append(picture_size(items[index].image)[::-1])
        except (AttributeError, IndexError, TypeError, ImageReadError):
            break  # drawn by a program, or unreadable, which the checks tell
    if not sizes:
        sizes = [dataset.load(0)[0].size[::-1]]
    return np.median(np.array(sizes, float), axis=0)
