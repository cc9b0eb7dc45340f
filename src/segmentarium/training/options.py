"""All that a training run is told, in one typed record; the command line is generated from it."""

# ruff: noqa: RUF009 - `option` returns a dataclass field

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = {
    "segmenter": "segmenters",
    "mask": "mask classifiers",
    "instances": "detectors with masks",
    "classifier": "classifiers",
    "keypoints": "keypoints",
    "pretrainer": "pretrainers",
    "detector3d": "detectors in point clouds",
}
FITTED = (  # what is taken by the data and the network where nobody says, see `training.defaults`
    "crop_size", "batch_size", "max_steps", "optimizer", "learning_rate", "weight_decay", "clip_norm", "warmup_steps",
    "val_every", "precision",
)  # fmt: skip
LAST, LAST_WEIGHTS, BEST_WEIGHTS = "last.ckpt", "last.safetensors", "best.safetensors"  # in the run's folder


# the first option of each group -> the group's heading in `train --help`
GROUPS = {
    "model": "what is trained",
    "data": "on what",
    "crop_size": "how crops are made",
    "task": "what is scored",
    "size": "how a classifier's and a pretrainer's pictures are made",
    "input_size": "how persons with joints, and pictures with points, are shown",
    "turn": "how scans are made",
    "max_steps": "how long and how fast",
    "loss": "what is minimised",
    "precision": "on which machine",
    "output": "what is kept",
}


def option(
    default: Any, help: str, *, flag: str = "", choices: tuple[str, ...] = (), free: bool = False, of: str = ""
) -> Any:
    """A field with the line that --help prints.

    flag      the command line's word where it is not the field's name
    choices   the words it may be
    free      changing it does not change the weights that come out, so that a resumed run may differ in it
    of        the only kinds of model that it is for ("segmenter mask", "classifier", "keypoints"); "": any
    """
    metadata = {
        "help": f"of {' and '.join(KINDS[kind] for kind in of.split())}: {help}" if of else help,
        "flag": flag,
        "choices": choices,
        "free": free,
        "of": of,
    }
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What is trained, on what, and how.  A recipe returns one; `train` takes one.

    Sizes are (height, width) in pixels; steps are optimiser steps, each on `batch_size` crops.
    """

    # What is trained
    model: str = option("bisenetv2", "registered name, see `segmentarium models`")
    model_arguments: dict[str, Any] = option(
        {},
        "the model's own arguments, e.g. backbone=resnet18 output_stride=16; dbb=true trains with Diverse Branch Blocks",
        flag="set",
    )
    weights: str | None = option(None, "start from these weights: a catalogue name, a file or a hub address")
    backbone_weights: str | None = option(None, "the same for the backbone alone: its file, or timm:NAME")
    mean: tuple[float, ...] | None = option(None, "mean of RGB in 0..1 for normalising (default: the model's own)")
    std: tuple[float, ...] | None = option(None, "standard deviation of RGB in 0..1 (default: the model's own)")

    # On what
    data: str = option(
        "folder",
        "data set: folder, imagefolder, webdataset, parquet (shards), camvid, eg1800, cityscapes, ade20k, voc,\n"
        "pascal_context, pascal_context59, coco_stuff, imagenet, coco_keypoints, points, shapes, pictures (without\n"
        "labels); of segments: instances, coco_panoptic, coco_instances, lvis, ade20k_panoptic, cityscapes_panoptic,\n"
        "labelme, cvat, yolo",
    )
    root: str = option("", "the data set's folder; of shards a pattern, too: 'train-{000..099}.tar'")
    data_arguments: dict[str, Any] = option({}, "the data set's own options, key=value", flag="data-set-options")
    train_split: str = option("train", "split to train on")
    val_split: str = option("val", "split to evaluate on during training")
    sampling: str = option(
        "uniform",
        "how often pictures are visited: uniform, or repeat, those with rare classes more often",
        choices=("uniform", "repeat"),
        of="segmenter mask instances classifier",
    )
    repeat_threshold: float = option(
        1e-3,
        "of sampling repeat: the share of the pictures below which a class is rare",
        of="segmenter mask instances classifier",
    )
    cache: bool = option(False, "keep all decoded images in memory (4 bytes a pixel)", free=True)
    check: bool = option(
        True,
        "look at all labels before training: values outside the classes, sizes, classes that never occur",
        free=True,
    )

    # How the crops are made
    crop_size: tuple[int, int] = option(
        (512, 512), "height and width of the training crops", of="segmenter mask instances"
    )
    scale: tuple[float, float] = option((0.5, 2.0), "range of the random scale factor", of="segmenter mask instances")
    long_side: int | None = option(
        None, "bring images to this longer side first, in evaluation too", of="segmenter mask instances"
    )
    flip: bool = option(True, "mirror half of the crops")
    rotate: float = option(0.0, "greatest random rotation, degrees", of="segmenter mask instances")
    photometric: bool = option(True, "random brightness, contrast, saturation and hue", of="segmenter mask instances")
    class_mix: float = option(
        0.0, "probability of laying half the classes of a second crop over a crop (ClassMix)", of="segmenter"
    )
    mosaic: float = option(
        0.0, "probability of putting three random pictures beside one before the crop", of="segmenter mask instances"
    )
    even_scales: bool = option(
        False,
        "draw the scale factor evenly in its logarithm: halving as often as doubling",
        of="segmenter mask instances",
    )
    degrade: float = option(
        0.0,
        "probability of each of grey, blur, JPEG's artefacts and uneven light on a crop",
        of="segmenter mask instances",
    )
    max_class_ratio: float = option(
        0.75,
        "redraw a crop in which one class has a larger share, of data with a class for each pixel; 1: never",
        of="segmenter mask instances",
    )

    task: str = option(
        "auto",
        "what the score is: semantic (mIoU), instance (AP), panoptic (PQ); auto: by the data, panoptic where some\n"
        "classes are no objects, instance where all are, semantic where a class is known of every pixel only",
        choices=("auto", "semantic", "instance", "panoptic"),
        of="mask instances",
    )

    # How a classifier's pictures are made, and a pretrainer's
    size: int | None = option(
        None,
        "side of the square they see (default: the model's own, else that of the pictures, up to 224)",
        of="classifier pretrainer",
    )
    crop_ratio: float | None = option(
        None,
        "share of the shorter side that it shows in evaluation (default: 0.875, 1 up to 64 pixels)",
        of="classifier",
    )
    area: tuple[float, float] = option(
        (0.08, 1.0),
        "range of the share of a picture's area that a crop shows (of a classifier: above 64 pixels)",
        of="classifier pretrainer",
    )
    rand_augment: int = option(0, "operations of RandAugment on a picture; 0: none", of="classifier")
    magnitude: int = option(9, "strength of RandAugment, 0 to 30", of="classifier")
    jitter: float = option(
        0.0, "brightness, contrast and saturation change by up to this share", of="classifier pretrainer"
    )
    erase: float = option(0.0, "probability that a rectangle is erased", of="classifier")
    mixup: float = option(0.0, "alpha of MixUp, e.g. 0.2; 0: none", of="classifier")
    cutmix: float = option(0.0, "alpha of CutMix, e.g. 1; 0: none", of="classifier")
    label_smoothing: float = option(0.0, "share of each label that is spread over all classes", of="classifier")

    token_labels: str | None = option(
        None,
        "a folder of label maps that every patch is held against, of networks that learn so: lvvit",
        of="classifier",
    )
    tokenizer: str | None = option(
        None,
        "a trained dvae, or DALL-E's encoder, that makes the visual tokens to be predicted: its run or file",
        of="pretrainer",
    )

    # How persons with joints, and pictures with points, are shown
    input_size: tuple[int, int] = option(
        (256, 192), "height and width of a person's crop, or of a shape or crop with points", of="keypoints"
    )
    learn: str = option(
        "auto",
        "points alone or pairs of pictures, with descriptors; auto: pairs, but of shapes points",
        choices=("auto", "points", "pairs"),
        of="keypoints",
    )
    adapt: dict[str, Any] = option(
        {},
        "first label the pictures of --root by homographic adaptation of the weights, e.g. homographies=100 long_side=320",
        of="keypoints",
    )

    # How scans are made
    turn: float | None = option(
        None,
        "degrees: of scans greatest random turn about the vertical (45), of joints deviation of the rotation (45), of points "
        "greatest turn of the warps (90)",
        of="detector3d keypoints",
    )
    stretch: tuple[float, float] = option((0.95, 1.05), "range of the random scale factor", of="detector3d")
    shift: float = option(
        0.0, "standard deviation of a random shift of the whole scan along each axis, metres", of="detector3d"
    )
    point_noise: float = option(0.0, "standard deviation of noise on points, metres", of="detector3d")
    object_noise: bool = option(False, "move and turn each object by itself", of="detector3d")
    paste: int = option(0, "paste objects of other scans until there are so many of each class", of="detector3d")

    # How long and how fast
    max_steps: int = option(40_000, "optimiser steps")
    batch_size: int = option(16, "effective batch: crops in one optimiser step, over all processes")
    micro_batch: int | None = option(
        None, "crops in one forward pass of one process (default: batch size / processes); the rest is accumulated"
    )
    optimizer: str = option("sgd", "optimiser", choices=("sgd", "adamw"))
    learning_rate: float = option(0.01, "learning rate after warm-up")
    momentum: float = option(0.9, "SGD's momentum, AdamW's first beta")
    beta2: float = option(0.999, "AdamW's second beta")
    weight_decay: float = option(5e-4, "weight decay")
    decay_norm_bias: bool = option(False, "weight decay also on biases and normalisation layers")
    backbone_lr_factor: float | None = option(
        None, "factor on the rate of parameters under `backbone.` (default: 0.1 when started from weights, else 1)"
    )
    layer_decay: float | None = option(
        None, "factor on the rate from each layer of the backbone to the one before it, e.g. 0.75 (default: none)"
    )
    schedule: str = option("poly", "course of the learning rate", choices=("poly", "cosine", "constant"))
    power: float = option(0.9, "exponent of the poly schedule")
    warmup_steps: int = option(0, "steps of linear warm-up from a tenth of the rate")
    clip_norm: float | None = option(None, "clip the gradient to this norm")
    freeze: tuple[str, ...] = option(
        (), "parts that keep their weights and running statistics, e.g. backbone decoder.boxes.*.layers"
    )
    ema: float = option(0.999, "decay of the averaged weights that are evaluated and kept; 0: none")
    loss: str | None = option(
        None,
        "another loss than the model's, e.g. ohem or cross_entropy+0.5*dice; of classifiers eql, eqlv2, seesaw, federated\n"
        "for classes that are rare in the data",
        of="segmenter classifier",
    )
    class_weight: str = option(
        "none",
        "none, auto (from the training labels: enet), enet:1.2, erfnet, median_frequency, inverse, or numbers: 1,2.5,1",
        of="segmenter",
    )
    teacher: str | None = option(
        None, "weights of a larger model for the same classes, whose scores are learnt from too", of="segmenter"
    )
    teacher_weight: float = option(1.0, "how much the teacher's scores weigh beside the labels", of="segmenter")
    seed: int = option(0, "seed of initial weights, order, augmentation and dropout")

    # On which machine
    precision: str = option("bf16", "32, bf16 or fp16 (mixed)", choices=("32", "bf16", "fp16"))
    compile: bool = option(False, "torch.compile the training forward pass")
    channels_last: bool = option(True, "channels-last memory layout, except where weights are sharded")
    accelerator: str = option("auto", "Lightning Fabric's accelerator: auto, cpu, cuda, mps")
    devices: str = option("auto", "Lightning Fabric's devices: auto, a number, or a list such as 0,1 (CPU: processes)")
    num_nodes: int = option(1, "number of machines")
    strategy: str = option("auto", "Lightning Fabric's strategy: auto, ddp, fsdp (shards gradients and optimiser), …")
    workers: int | None = option(
        None, "processes that prepare data, for each training process (default: by the cores)", free=True
    )

    # What is kept
    output: str | None = option(None, "folder of the run (default: runs/MODEL-DATA)", free=True)
    resume: bool = option(False, "continue the run in the output folder exactly where it stopped", free=True)
    allow_changed_options: bool = option(
        False, "let a resumed run differ in options that change its weights", free=True
    )
    val_every: int = option(1000, "evaluate every so many steps", free=True)
    save_every: int = option(500, "write last.ckpt every so many steps", free=True)
    log_every: int = option(50, "log the loss every so many steps", free=True)
    images_every: int = option(1, "save validation pictures at every so many evaluations; 0: never", free=True)
    patience: int = option(0, "stop after so many evaluations without a better score; 0: never", free=True)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, choices = getattr(self, item.name), item.metadata["choices"]
            if choices and value not in choices:
                raise ValueError(f"{item.name} is {value!r}; choose one of {', '.join(choices)}")
        for name in ("max_steps", "batch_size", "val_every", "save_every", "log_every", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if len(self.crop_size) != 2 or min(self.crop_size) < 1:
            raise ValueError(f"crop_size is {self.crop_size}; give height and width, both 1 or more")
        if self.patience < 0:
            raise ValueError(f"patience is {self.patience}; give a number of evaluations, or 0 to train to the end")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; give a decay of 0 (none) or more, below 1")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch is {self.micro_batch}; give 1 or more")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; give a factor above 0, up to 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; give a number above 0")

    def foreign(self, kind: str) -> list[str]:
        """The options that were set and are for another kind of model than `kind`."""
        fields = dataclasses.fields(self)
        return self.said(f.name for f in fields if f.metadata["of"] and kind not in f.metadata["of"].split())

    def said(self, names: Iterable[str]) -> list[str]:
        """Those of some options that were set to another value than the standard one."""
        standard = TrainingOptions()
        return [name for name in names if getattr(self, name) != getattr(standard, name)]

    @property
    def folder(self) -> str:
        """The folder of the run."""
        return self.output or f"runs/{self.model}-{self.data}"

    def replace(self, **changes: Any) -> TrainingOptions:
        """The same with other values."""
        return dataclasses.replace(self, **changes)

    def changed(self, values: dict[str, Any]) -> TrainingOptions:
        """The same with other values; dictionaries are merged."""
        return self.replace(**{k: {**getattr(self, k), **v} if isinstance(v, dict) else v for k, v in values.items()})

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as JSON knows it (tuples become lists)."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingOptions:
        """From `as_dict`; unknown names (of another version) raise a ValueError that lists them."""
        known = {item.name for item in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown training options {', '.join(unknown)}; were they written by another version?")
        arguments: dict[str, Any] = {}
        for name, value in values.items():
            arguments[name] = tuple(value) if isinstance(value, list) else value
        return cls(**arguments)


def resumed_options(options: TrainingOptions, values: dict[str, Any]) -> TrainingOptions:
    """What a resumed run is not told, it takes from its first start; `values` are what was said this time."""
    stored = Path(options.folder) / "options.json"
    if not options.resume or not stored.is_file():
        return options
    earlier = json.loads(stored.read_text(encoding="utf-8"))
    free = {item.name for item in dataclasses.fields(TrainingOptions) if item.metadata["free"]}
    earlier = {
        name: value for name, value in earlier.items() if name not in free - {"val_every", "save_every", "patience"}
    }
    return TrainingOptions.from_dict({**earlier, "output": options.folder}).changed(values)


def changed_options(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """name -> (old, new) of the options that change the weights that come out; one that is not there, as of a version that did
    not have it, is the standard one."""
    free = {item.name for item in dataclasses.fields(TrainingOptions) if item.metadata["free"]}
    standard = TrainingOptions().as_dict()
    old, new = standard | old, standard | new
    names = [name for name in {**old, **new} if name not in free]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def command_of(options: TrainingOptions) -> str:
    """The command line that trains with these options: what the header of the weights says of how they were made."""
    words = ["segmentarium", "train"]
    standard = TrainingOptions()
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if value == getattr(standard, item.name) or item.name in ("output", "resume", "allow_changed_options"):
            continue
        flag = item.metadata["flag"] or item.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict):
            words += [f"--{flag}", *(f"{key}={entry}" for key, entry in value.items())]
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)
