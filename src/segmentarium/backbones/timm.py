"""Every timm model as a backbone, "timm:convnext_tiny", and as a classifier with timm's own head.

PyTorch Image Models, Ross Wightman; https://github.com/huggingface/pytorch-image-models (Apache-2.0; the weights have licences of
their own, see timm's model cards).  Features come from timm's `forward_intermediates`; this file makes them keep our contract:
NCHW, finest first, of stride 4 and more, at any input size.  What a model can do is tried on the meta device first, so that one
with a fixed grid (BEiT, Mixer, MaxViT, CoAtNet, …) says at construction which size it takes.
"""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.plain import quarters
from segmentarium.contracts import Backbone, Preprocessing
from segmentarium.meta import on_meta
from segmentarium.registry import Card, Entry, Paper, did_you_mean

# What transformers need so that they take any size; the first that a model's constructor accepts is used.  Swin's comes
# first: until timm 1.0.30 Swin accepted the other and left it unused.
SIZE_OPTIONS: tuple[dict[str, Any], ...] = (
    {"strict_img_size": False},  # Swin and its kin
    {"dynamic_img_size": True, "dynamic_img_pad": True},  # ViT and its kin
    {},
)
TRIED = (33, 97)  # height and width that are odd after every halving but the last


class TimmBackbone(Backbone):
    """A timm model's feature maps and class scores.

    name           timm's, with its tag where one is wanted ("convnext_tiny.fb_in22k")
    pretrained     loads timm's weights from the hub
    output_stride  8, 16 or 32, for the families that timm can dilate; None: the model's own
    img_size       height and width, or both in one: of the grid that a transformer's positions are learned on.  Models that
                   do not take any size need it, and then take that size alone
    out_indices    timm's numbering; None: every feature of stride 4 or more (a plain transformer has one stride only:
                   its features are the last three blocks', and decoders take the last); "quarters": the same, but of a plain
                   transformer four blocks in equal steps, up to the last
    final_norm     whether the features of a plain transformer pass its final norm; pyramids are as timm has them
    num_classes    classes of `classify`, by timm's head; None: no head, and no layers behind the last feature asked for

    A model that rounds sizes down (ConvNeXt) or needs whole patches gets an image padded below and to the right, with zeros,
    and its features are cropped back to ceil(size / stride).
    """

    def __init__(
        self,
        *,
        name: str,
        in_channels: int = 3,
        output_stride: int | None = None,
        pretrained: bool = False,
        img_size: int | Sequence[int] | None = None,
        out_indices: Sequence[int] | Literal["quarters"] | None = None,
        final_norm: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        size = None if img_size is None else (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        asked = out_indices if out_indices is None or isinstance(out_indices, str) else tuple(out_indices)
        found = _examine(name, output_stride, size, asked)
        arguments = {
            **found.options,
            "in_chans": in_channels,
            "num_classes": num_classes or 0,
            "pretrained": pretrained,
        }
        self.body: Any = _create(name, arguments)
        self.describe(found.channels, found.strides, found.out_indices, head=nn.Identity())  # timm's stands in the body
        takes = inspect.signature(self.body.forward_intermediates).parameters
        if "return_prefix_tokens" in takes and len(set(found.strides)) == 1:
            self.prefix_tokens = getattr(self.body, "num_prefix_tokens", None)
        self._options = {"norm": True} if final_norm and self.prefix_tokens is not None else {}
        self.fixed_size, self._multiple = found.fixed_size, found.multiple
        config = self.body.pretrained_cfg
        self.preprocessing = Preprocessing(
            tuple(config["mean"]),
            tuple(config["std"]),
            crop_size=(self.fixed_size or config["input_size"])[-1],
            crop_ratio=config["crop_pct"],
        )
        if num_classes is None:
            self.body.prune_intermediate_layers(list(self.out_indices), prune_norm=not self._options)
        self._depths: dict[str, int] = {}
        if hasattr(self.body, "group_matcher"):
            from timm.models import group_parameters

            depths: Any = group_parameters(self.body, self.body.group_matcher(coarse=False), reverse=True)
            self._depths = depths
            self.num_layers = max(self._depths.values())

    def _whole(self, image: Tensor) -> Tensor:
        """The image, padded to whole strides; ValueError where it has not the one size that the model takes."""
        height, width = image.shape[-2:]
        if self.fixed_size is not None and (height, width) != self.fixed_size:
            raise ValueError(
                f"the image is {height}×{width}; this timm model takes {self.fixed_size[0]}×{self.fixed_size[1]} only: "
                "resize the image, or build the model with img_size"
            )
        if self._multiple == 1:
            return image
        below, right = -height % self._multiple, -width % self._multiple
        # an exported graph has to pad whatever the size
        return F.pad(image, (0, right, 0, below)) if torch.compiler.is_exporting() or below or right else image

    def _features(self, image: Tensor, indices: Sequence[int], **options: Any) -> list[Any]:
        return self.body.forward_intermediates(
            self._whole(image), indices=list(indices), stop_early=True, intermediates_only=True, **options
        )

    def _cropped(self, feature: Tensor, image: Tensor, stride: int) -> Tensor:
        if self._multiple == 1:
            return feature
        # rounded up by what ONNX divides alike: its division of negative numbers rounds towards zero
        height, width = ((side + stride - 1) // stride for side in image.shape[-2:])
        return feature[..., :height, :width]

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self._features(image, self.out_indices, **self._options)
        return [self._cropped(x, image, stride) for x, stride in zip(features, self.strides, strict=True)]

    def embed(self, image: Tensor) -> Tensor:
        """What timm's head sees before its last layer; without a head, the mean of the deepest feature."""
        if self.num_classes is None:
            return self.forward(image)[-1].mean((2, 3))
        return self.body.forward_head(self.body.forward_features(self._whole(image)), pre_logits=True)

    def classify(self, image: Tensor) -> Tensor:
        return super().classify(image) if self.num_classes is None else self.body(self._whole(image))

    def forward_tokens(self, image: Tensor, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        if self.prefix_tokens is None:
            return super().forward_tokens(image, indices)
        blocks = len(self.body.blocks)
        if not indices or any(index not in range(blocks) for index in indices) or list(indices) != sorted(set(indices)):
            raise ValueError(f"the blocks to tap are {tuple(indices)}; give some of 0 to {blocks - 1}, in their order")
        taps = self._features(image, indices, return_prefix_tokens=True, **self._options)
        pairs = [tap if isinstance(tap, tuple) else (tap, tap.flatten(2).transpose(1, 2)[:, :0]) for tap in taps]
        return [(self._cropped(grid, image, self.strides[-1]), prefix) for grid, prefix in pairs]

    def no_weight_decay(self) -> set[str]:
        patterns = self.body.no_weight_decay() if hasattr(self.body, "no_weight_decay") else ()
        names = [name for name, _ in self.body.named_parameters()]
        return {f"body.{name}" for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}

    def layer_of(self, name: str) -> int:
        if not self._depths:
            return super().layer_of(name)
        name = name.removeprefix("body.")
        if name not in self._depths:  # of a block in a convolution's place, where the convolution's weight stood
            name = f"{name.rpartition('.')[0].rpartition('.')[0]}.weight"
        return self._depths[name]


@dataclass(frozen=True)
class _Found:
    """What a timm model is and takes.

    options      that its constructor needs for it
    channels     of all features, like the strides
    out_indices  of the features that are wanted
    multiple     of the sides that it takes; 1: any, and its features have ceil(side / stride)
    fixed_size   the one size that it takes; None: any
    """

    options: dict[str, Any]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    out_indices: tuple[int, ...]
    multiple: int
    fixed_size: tuple[int, int] | None


@cache
def _examine(
    name: str, output_stride: int | None, img_size: tuple[int, ...] | None, out_indices: tuple[int, ...] | str | None
) -> _Found:
    """Builds the model on the meta device and runs it, at an odd size, at whole strides, at its own size: the first that works.

    Raises KeyError for an unknown name, ValueError for what the model cannot do.
    """
    asked: dict[str, Any] = {"output_stride": output_stride, "img_size": img_size}
    with torch.device("meta"):
        options, body = _first_that_builds(name, {key: value for key, value in asked.items() if value is not None})
    body.eval()
    if not hasattr(body, "forward_intermediates"):
        raise ValueError(f"timm's {name!r} gives no features; a newer timm may")
    channels = tuple(int(info["num_chs"]) for info in body.feature_info)
    strides = tuple(int(info["reduction"]) for info in body.feature_info)
    if output_stride is not None and max(strides) != output_stride:
        raise ValueError(
            f"timm's {name!r} cannot have output stride {output_stride}; its deepest feature has {max(strides)}"
        )
    if isinstance(out_indices, str) and out_indices != "quarters":
        raise ValueError(f"out_indices is {out_indices!r}; give indices, 'quarters' or None")
    if out_indices is None or isinstance(out_indices, str):
        offered: Sequence[int] = range(len(strides))
        if len(set(strides)) == 1:
            offered = quarters(len(strides)) if out_indices else offered[-3:]
        out_indices = tuple(i for i in offered if strides[i] >= 4)
        if not out_indices:
            raise ValueError(f"timm's {name!r} has features of strides {strides}; a backbone needs one of 4 or more")
    if not out_indices or any(i not in range(len(strides)) for i in out_indices):
        return _Found(options, channels, strides, out_indices, 1, None)  # which `describe` refuses
    wanted = {i: strides[i] for i in sorted(out_indices)}
    whole = max(strides)
    height, width = img_size or body.pretrained_cfg["input_size"][-2:]
    problem = None
    for multiple, fixed_size, size in (
        (1, None, TRIED),
        (whole, None, tuple(-(-side // whole) * whole for side in TRIED)),
        (1, (height, width), (height, width)),
    ):
        problem = _problem(body, wanted, size)
        if problem is not None:
            continue
        if fixed_size is not None and img_size is None:
            raise ValueError(
                f"timm's {name!r} does not take images of any size: give img_size={height}, its own, or another that it can "
                f"be built for, and images of that size (to a segmenter: backbone_arguments={{'img_size': {height}}})"
            )
        return _Found(options, channels, strides, out_indices, multiple, fixed_size)
    raise ValueError(f"timm's {name!r} cannot be a backbone: at {height}×{width}, {problem}")


def _problem(body: Any, strides: Mapping[int, int], size: Sequence[int]) -> str | None:
    """Why the model gives no features of ceil(size / stride), by index, for an image of that size; None: it does."""
    image = torch.empty(2, 3, *size, device="meta")
    try:
        with torch.no_grad():
            features = body.forward_intermediates(
                image, indices=list(strides), stop_early=True, intermediates_only=True
            )
    except Exception as error:  # whatever timm raises: assertions, shapes, missing operators
        return f"timm says: {str(error) or type(error).__name__}"
    given = [tuple(feature.shape[-2:]) for feature in features]
    expected = [tuple(-(-side // stride) for side in size) for stride in strides.values()]
    return None if given == expected else f"its features have sizes {given}, where their strides make {expected}"


def _first_that_builds(name: str, wanted: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    refused = None
    for options in SIZE_OPTIONS:
        options = options | wanted
        try:
            return options, _create(name, {**options, "num_classes": 0})
        except TypeError as error:
            if not any(option in str(error) for option in options):
                raise
            refused = error
    if "output_stride" in str(refused):
        raise ValueError(_undilated(name, wanted["output_stride"])) from refused
    raise ValueError(f"timm's {name!r} has no argument 'img_size'; leave it out") from refused


def _undilated(name: str, output_stride: int) -> str:
    return (
        f"timm's {name!r} cannot have output stride {output_stride}: timm dilates some families only, to 8, 16 or 32; "
        "leave it out, or take another backbone"
    )


def _create(name: str, arguments: dict[str, Any]) -> Any:
    """timm's model.  Unknown names and unsupported options are answered in our words."""
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:6]}*") or timm.list_models()
        raise KeyError(f"timm has no model {name!r}{did_you_mean(name, near)[:300]}")
    try:
        return timm.create_model(name, **arguments)
    except (NotImplementedError, RuntimeError, AssertionError) as error:
        if "output_stride" in arguments and not str(error):
            raise ValueError(_undilated(name, arguments["output_stride"])) from error
        raise ValueError(f"timm cannot build {name!r} with {arguments}: {error}") from error


@cache
def can_be_dilated(name: str, output_stride: int) -> bool:
    """Whether timm's model `name` can have that output stride; built on the meta device once, nothing is run."""
    try:
        with torch.device("meta"):
            _, body = _first_that_builds(name, {"output_stride": output_stride})
    except ValueError:
        return False
    return max(info["reduction"] for info in body.feature_info) == output_stride


@cache
def normed_by_layer(name: str) -> bool:
    """Whether timm's model `name` has layer norms, as networks of tokens have; built on the meta device once, nothing is run."""
    with on_meta():
        return any(isinstance(module, nn.LayerNorm) for module in _create(name, {}).modules())


def timm_entry(name: str) -> Entry:
    """The registry's entry of "timm:NAME"; KeyError for a name that timm does not know."""
    import timm

    short = name.removeprefix("timm:")
    if not timm.is_model(short):
        _create(short, {})
    config = timm.get_pretrained_cfg(short)
    paper = Paper(
        title="PyTorch Image Models",
        authors="Wightman",
        venue="GitHub",
        year=2019,
        url="https://github.com/huggingface/pytorch-image-models",
        code="https://github.com/huggingface/pytorch-image-models",
        code_licence="Apache-2.0",
    )
    card = Card(paper=paper, num_classes=(config and config.num_classes) or None)
    return Entry(name, TimmBackbone, {"name": short}, card, "backbones.timm")


def rename_features_only(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """A state dict whose timm backbone was wrapped by timm's `features_only` ("backbone.body.stages_0.…"), which flattened
    some keys and put "model." before others, under the keys that the model `wanted` has ("backbone.body.stages.0.…")."""

    def flat(key: str) -> str:
        return key.replace("body.model.", "body.").replace(".", "_")

    ours = {flat(key): key for key in wanted}
    return {ours.get(flat(key), key): tensor for key, tensor in state.items()}
