"""What is compared: models by name, weights, or recipes."""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmentarium.training.options import FITTED, TrainingOptions

GENERIC = ("best", "last", "model")  # file names that say nothing: the folder's name is the candidate's then


@dataclass(frozen=True)
class Candidate:
    """One line of the comparison: either trained, in one stage or several, or loaded from `weights`.

    label    its name on the page and of its folder
    origin   where it comes from, for the reader
    """

    label: str
    origin: str
    stages: tuple[TrainingOptions, ...] = ()
    weights: str = ""

    def identity(self) -> dict[str, Any]:
        """What must not change between two starts of one comparison."""
        if self.stages:
            return {"stages": [stage.as_dict() for stage in self.stages]}
        return {"weights": digest(self.weights)}


def standard_options(changes: dict[str, Any]) -> TrainingOptions:
    """What models that are given by name are trained with, but for what a network needs otherwise: AdamW at 0.001, crops of about
    70 % of a picture's sides.

    changes: TrainingOptions to be set otherwise, `data` and `root` among them.  Raises what the data set raises.
    """
    from segmentarium.data import ClassificationDataset
    from segmentarium.training.defaults import SMALL, USUAL, WARMUP, crop_for
    from segmentarium.training.loaders import open_dataset
    from segmentarium.training.machine import precision_here

    standard = {**USUAL, "warmup_steps": WARMUP, "batch_size": SMALL[0], "save_every": 100}
    standard["precision"] = precision_here(changes.get("accelerator", "auto"))
    options = TrainingOptions(**{**standard, **changes})
    if "crop_size" in changes:
        return options
    dataset = open_dataset(options, options.train_split)
    if not len(dataset):
        raise ValueError(f"split {options.train_split!r} of {options.root} has no images; there is nothing to train on")
    if isinstance(dataset, ClassificationDataset):
        return options
    return options.replace(crop_size=crop_for(dataset))


def digest(source: str) -> str:
    """A hash of the weights' file, or files: two trainings may give one .xml, which differ in its .bin alone."""
    from segmentarium.weights import locate
    from segmentarium.weights.exported import files_of

    found = hashlib.blake2b()
    for path in files_of(locate(source)):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()[:32]


def candidates_of_models(
    items: Sequence[str], base: TrainingOptions | None, said: Collection[str] = ()
) -> list[Candidate]:
    """Candidates of `--models`: a registered name (trained with the options `base`), NAME=WEIGHTS, or weights by name.

    base  None where nothing is to be trained
    said  options of `base` that stay where a network would be trained otherwise, as `segmentarium train` does

    Raises KeyError or FileNotFoundError for what is unknown, with what was
    probably meant, and ValueError for a name that occurs twice or has to be trained without a budget.
    """
    return distinct([_of_item(item, base, said) for item in items])


def _of_item(item: str, base: TrainingOptions | None, said: Collection[str]) -> Candidate:
    from segmentarium.registry import entry, list_models
    from segmentarium.training import TASKS
    from segmentarium.training.defaults import needs
    from segmentarium.weights import catalogue, locate
    from segmentarium.weights.names import no_model
    from segmentarium.weights.published import published

    name, equals, source = item.partition("=")
    if equals:
        if not name or not source:
            raise ValueError(f"{item!r} is no NAME=WEIGHTS; give e.g. mine=runs/mine/last.safetensors")
        locate(source)
        return Candidate(_slug(name), f"weights {source}", weights=source)
    trained = [other for kind in TASKS for other in list_models(kind=kind)]
    if name in trained and not Path(name).is_file():
        if base is None:
            raise ValueError(
                f"{name!r} is a network without weights, and with budget none nothing is trained; give a budget "
                f"(--budget 5m) or its weights ({name}=FILE)"
            )
        own = {} if entry(name).kind == "mask" else {"task": "auto"}  # others have one task, and know no word for it
        base = base.replace(model=name, **own)
        return Candidate(name, "trained here", stages=(base.replace(**needs(base, {*FITTED} - {*said})),))
    if name in list_models():
        raise ValueError(f"{name!r} is a {entry(name).kind}; give a {' or a '.join(TASKS)}, e.g. {trained[0]!r}")
    if catalogue.find(name) is not None:
        return Candidate(_slug(name), "shipped weights", weights=name)
    path = Path(name)
    if name in published() and not path.exists():
        return Candidate(_slug(name), "published weights", weights=name)
    if path.exists() or name.startswith("hf:"):
        located = locate(name)
        label = path.name if name.startswith("hf:") else located.stem
        if label in GENERIC:
            label = located.resolve().parent.name
        return Candidate(_slug(label), f"weights {name}", weights=name)
    if path.suffix in (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".onnx", ".xml"):
        raise FileNotFoundError(f"no weights at {name}")
    raise KeyError(f"no model or weights are called {name!r}{no_model(name)}")


def candidates_of_recipes(places: Sequence[str | Path], changes: dict[str, Any]) -> list[Candidate]:
    """A candidate for each recipe: files, or all files of a folder that have a function `recipe` or `recipes`.

    changes: training options that override those of every recipe.  Raises FileNotFoundError where there is none.
    """
    from segmentarium.training import load_recipes

    found = []
    for file in recipe_files(places):
        for name, stages in load_recipes(file).items():
            changed = tuple(stage.changed(changes) for stage in stages)
            found.append(Candidate(_slug(name), f"recipe {file}", stages=changed))
    return distinct(found)


def recipe_files(places: Sequence[str | Path]) -> list[Path]:
    """The recipes among files and in folders; what recipes share (a module without these functions) is no recipe."""
    files: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            inside = [file for file in sorted(place.glob("*.py")) if _has_recipe(file)]
            if not inside:
                raise FileNotFoundError(
                    f"{place} holds no recipe: no Python file with a function recipe() or recipes()"
                )
            files += inside
        elif place.is_file():
            files.append(place)
        else:
            raise FileNotFoundError(f"no recipe at {place}: neither a file nor a folder")
    return files


def _has_recipe(file: Path) -> bool:
    body = ast.parse(file.read_text(encoding="utf-8"), str(file)).body
    return any(isinstance(node, ast.FunctionDef) and node.name in ("recipe", "recipes") for node in body)


def _slug(label: str) -> str:
    """A label that is a folder's name everywhere."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", label).strip("-.") or "model"


def distinct(candidates: list[Candidate]) -> list[Candidate]:
    """The same; ValueError where there is none, or where two have one label."""
    if not candidates:
        raise ValueError("there is nothing to compare; give --models A,B or --recipes FOLDER")
    twice = [label for label, count in Counter(c.label.lower() for c in candidates).items() if count > 1]
    if twice:
        raise ValueError(f"several candidates are called {', '.join(twice)}; name them apart: NAME=WEIGHTS")
    return candidates
