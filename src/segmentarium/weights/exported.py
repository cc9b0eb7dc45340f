"""Networks that `segmentarium export` wrote, as models: an .onnx file or OpenVINO's .xml stands wherever weights do.

Their answers come from ONNX Runtime or OpenVINO, on the processor; what the file says of itself gives kind, classes, colours
and preprocessing.  They cannot be trained, exported again, or run by PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from segmentarium.contracts import Classifier, LabelledModel, MaskModel, MaskSet, Model, SegmentationModel
from segmentarium.preprocessing import Preprocessing
from segmentarium.runtimes import FACTS, exported_facts, exported_texts, onnx_session, openvino_network, runner

# suffix of the main file -> the engine that runs it where nobody says, and all that can
ENGINES = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}
NEEDED = {"kind", *FACTS}


def is_exported(source: object) -> bool:
    """Whether a path names an exported network rather than weights: by its suffix."""
    return Path(str(source)).suffix.lower() in ENGINES


def files_of(source: Path) -> list[Path]:
    """The files that a model's file is made of: OpenVINO's .xml has the weights in a .bin beside it, any other is alone."""
    beside = source.with_suffix(".bin")
    return [source, beside] if source.suffix.lower() == ".xml" and beside.is_file() else [source]


class ExportedNetwork(Model):
    """What all kinds of exported networks are: `file`, what it says of itself (`told`), and its answers."""

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
        if told["classes"]:
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
            self._run = runner(opened, self.file)
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

    def forward_masks(self, image: Tensor) -> MaskSet:
        class_logits, mask_logits = self.answers(image)
        return MaskSet(class_logits, mask_logits)


class ExportedClassifier(ExportedNetwork, Classifier):
    """(B, C, H, W) -> (B, K), without a backbone that anybody could look into."""

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        LabelledModel.__init__(self, num_classes=num_classes, in_channels=in_channels)

    def forward(self, image: Tensor) -> Tensor:
        return self.answers(image)[0]


KINDS: dict[str, Any] = {
    "segmenter": ExportedSegmenter,
    "mask": ExportedMasks,
    "classifier": ExportedClassifier,
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
    told = exported_facts(texts, file, {*NEEDED, *texts})
    try:
        return _made(file, told, shape, outputs)
    except (TypeError, KeyError, AttributeError) as error:  # what a stranger wrote into it
        raise ValueError(f"{file} says of itself what cannot be ({type(error).__name__}: {error})") from error


def _made(file: Path, told: dict[str, Any], shape: tuple[int | None, ...], outputs: int) -> ExportedNetwork:
    build = KINDS.get(told["kind"])
    if told["kind"] == "mask" and outputs == 1:
        build = ExportedSegmenter  # its scores, of every pixel
    if build is None:
        raise ValueError(
            f"{file} is an exported {told['kind']}; here {', '.join(KINDS)} run from such files: give the weights it is made of"
        )
    arguments = {"num_classes": told["num_classes"], "in_channels": told["in_channels"]}
    if build is ExportedMasks and told.get("things") is not None:
        arguments["things"] = told["things"]
    made = build(**arguments)
    made.describe(file, told, shape)
    return made
