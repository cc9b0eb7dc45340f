"""Networks that `segmentarium export` wrote, as models: an .onnx file or OpenVINO's .xml stands wherever weights do.

Their answers come from ONNX Runtime or OpenVINO, on the processor; what the file says of itself gives kind, classes, colours
and preprocessing.  They cannot be trained, exported again, or run by PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import torch
from torch import Tensor

from segmentarium.contracts import (
    Classifier,
    KeypointModel,
    LabelledModel,
    MaskModel,
    MaskSet,
    Model,
    SegmentationModel,
)
from segmentarium.contracts.point_kinds import Sampling
from segmentarium.preprocessing import Preprocessing
from segmentarium.runtimes import (
    FACTS,
    OF_ALL,
    exported_facts,
    exported_texts,
    onnx_session,
    openvino_network,
    runner,
)

# suffix of the main file -> the engine that runs it where nobody says, and all that can
ENGINES = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}


def is_exported(source: object) -> bool:
    """Whether a path names an exported network rather than weights: by its suffix."""
    return Path(str(source)).suffix.lower() in ENGINES


def files_of(source: Path) -> list[Path]:
    """The files that a model's file is made of: OpenVINO's .xml has the weights in a .bin beside it, any other is alone."""
    beside = source.with_suffix(".bin")
    return [source, beside] if source.suffix.lower() == ".xml" and beside.is_file() else [source]


class ExportedNetwork(Model):
    """What all kinds of exported networks are: `file`, what it says of itself (`told`), and its answers.

    needed      what the file must say
    built_from  of that, and of what it may say, what the constructor takes
    """

    needed: ClassVar[tuple[str, ...]] = FACTS
    built_from: ClassVar[tuple[str, ...]] = ("num_classes", "in_channels")
    file: Path
    told: dict[str, Any]
    _run: Any = None

    def describe(self, file: Path, told: dict[str, Any], shape: tuple[int | None, ...]) -> None:
        """Notes what the file says; `shape`: of its input, None where it is open."""
        self.file, self.told = file, told
        height, width = shape[-2:]
        self.fixed_size = (height, width) if height and width else None
        wanted = told["preprocessing"]
        said = Preprocessing.from_dict(wanted) if wanted else Preprocessing()
        self.preprocessing = said.for_channels(self.in_channels)
        self.weights_header = {key: told.get(key) for key in ("dataset", "metrics", "licences", "classes")}
        if told.get("classes"):
            self.classes = tuple(told["classes"])
        if told.get("palette"):
            self.palette = tuple((r, g, b) for r, g, b in told["palette"])
        if told["kind"] == "mask" and isinstance(self, SegmentationModel) and len(self.classes) == 1:
            # its one logit tells the class from all else
            self.classes, self.palette = ("background", *self.classes), ((0, 0, 0), *self.palette)
        self.eval()

    @property
    def title(self) -> str:
        return f"{self.told['model']} ({self.file.name})"

    def answers(self, image: Tensor) -> list[Tensor]:
        """Everything that the network gives of (B, C, H, W), as its own engine computes it."""
        if self._run is None:
            threads = torch.get_num_threads()
            onnx = ENGINES[self.file.suffix.lower()][0] == "onnxruntime"
            opened = onnx_session(self.file, threads) if onnx else openvino_network(self.file, "f32", threads)
            self._run = runner(opened, self.file, dense=isinstance(self, SegmentationModel))
        return [torch.from_numpy(found) for found in self._run(image.float().contiguous().cpu().numpy())]

    def engine_for(self, name: str, precision: str = "fp32") -> str:
        """The engine that runs it where `name` was asked for; ValueError for one that cannot."""
        able = ENGINES[self.file.suffix.lower()]
        if name in ("torch", "auto"):  # what stands where nobody chose
            name = able[0] if precision == "fp32" else "openvino"
        if name not in able or (name == "onnxruntime" and precision != "fp32"):
            given = name if precision == "fp32" else f"{name} in {precision}"
            raise ValueError(f"{self.file} is an exported network and runs on {' or '.join(able)}, not on {given}")
        return name

    def deploy(self) -> Self:
        """Itself: it was deployed before it was written."""
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self


class ExportedSegmenter(ExportedNetwork, SegmentationModel):
    """(B, C, H, W) -> (B, K, H, W), of a segmenter, or the scores of a mask classifier."""

    def logits(self, image: Tensor) -> Tensor:
        return self.answers(image)[0]


class ExportedMasks(ExportedNetwork, MaskModel):
    """A mask classifier whose file gives its masks and their classes."""

    built_from = ("num_classes", "in_channels", "things")

    def forward_masks(self, image: Tensor) -> MaskSet:
        class_logits, mask_logits = self.answers(image)
        return MaskSet(class_logits, mask_logits)


class ExportedClassifier(ExportedNetwork, Classifier):
    """(B, C, H, W) -> (B, K), without a backbone that anybody could look into."""

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        LabelledModel.__init__(self, num_classes=num_classes, in_channels=in_channels)

    def forward(self, image: Tensor) -> Tensor:
        return self.answers(image)[0]


class ExportedPoints(ExportedNetwork, KeypointModel):
    """(B, C, H, W) -> scores (B, H, W) and descriptors (B, D, h, w), of a network of points that was exported without `--points`.

    stride, sampling  as the network's
    """

    needed = built_from = ("in_channels", "stride", "sampling")

    def __init__(self, *, in_channels: int, stride: int, sampling: Sampling) -> None:
        super().__init__(in_channels=in_channels)
        if type(stride) is not int or stride < 1 or sampling not in get_args(Sampling):
            raise TypeError(f"stride {stride!r} and sampling {sampling!r} are none of ours")
        self.stride, self.sampling = stride, sampling

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        scores, descriptors = self.answers(image)
        return scores, descriptors


KINDS: dict[str, Any] = {
    "segmenter": ExportedSegmenter,
    "mask": ExportedMasks,
    "classifier": ExportedClassifier,
    "keypoints": ExportedPoints,
}


def load_exported(file: str | Path) -> ExportedNetwork:
    """The network of a file that `segmentarium export` wrote, as a model.

    Raises FileNotFoundError, and ValueError for a file of another origin, or of a kind that no verb runs from a file.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"no exported network at {file}; `segmentarium export` makes one")
    try:
        texts, shape, outputs = exported_texts(file)
    except ImportError:
        raise
    except Exception as error:  # the engines' exceptions have no class of their own above them
        raise ValueError(f"{file} is no network that can be read: {str(error).strip().splitlines()[0]}") from error
    build = _class_of(texts, file, outputs)
    told = exported_facts(texts, file, {*OF_ALL, *build.needed, *texts})
    try:
        made = build(**{key: told[key] for key in build.built_from if told.get(key) is not None})
        made.describe(file, told, shape)
    except (TypeError, KeyError, AttributeError) as error:  # what a stranger wrote into it
        raise ValueError(f"{file} says of itself what cannot be ({type(error).__name__}: {error})") from error
    return made


def _class_of(texts: Mapping[str, str], file: Path, outputs: int) -> type[ExportedNetwork]:
    """What a file becomes.  ValueError where nothing runs it."""
    kind = exported_facts(texts, file, {*OF_ALL, "kind"})["kind"]
    if kind == "mask" and outputs == 1:
        return ExportedSegmenter  # its scores, of every pixel
    if kind == "keypoints" and "sampling" not in texts:
        raise ValueError(
            f"{file} finds joints, or its points by itself (--points); of networks of points those run from files that give "
            "scores and descriptors: export it without --points, or give the weights that it is made of"
        )
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"{file} is an exported {kind}; here {', '.join(KINDS)} run from such files: give the weights it is made of"
        )
    return KINDS[kind]
