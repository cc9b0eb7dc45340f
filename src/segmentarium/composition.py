"""`EncoderDecoder`, `MaskClassifier` and `InstanceDetector`: any decoder on any backbone, and how decoders get their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from segmentarium.backbones import can_have, can_take, create_backbone
from segmentarium.contracts import (
    Decoder,
    InstanceDecoder,
    InstanceModel,
    InstanceSet,
    LabelledModel,
    MaskDecoder,
    MaskModel,
    MaskSet,
    SegmentationModel,
    Term,
)
from segmentarium.layers.fcn_head import FCNHead
from segmentarium.layers.pyramid_neck import MultiLevelNeck, ProjectedNeck, PyramidNeck
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy
from segmentarium.losses.segments import Target, segments_of
from segmentarium.meta import on_meta
from segmentarium.registry import Card, Paper, create_model, entry, known, list_models, register

OutputStride = int | Literal["auto"] | None
NECKS = {"pyramid": PyramidNeck, "multilevel": MultiLevelNeck, "projected": ProjectedNeck}


class OnBackbone(LabelledModel):
    """What a network of a backbone and a decoder is, whatever kind of model it makes.

    decoder             the decoder's class
    backbone            ours by name, timm's as "timm:NAME", or a `Backbone`
    output_stride       of the backbone: 8, 16, 32; None: its own; "auto": what the decoder prefers, where the backbone can
    neck                makes features of strides 4 to 32 out of a plain transformer's: "pyramid" by transposed convolutions
                        (BEiT's), "multilevel" by interpolation between convolutions (mmsegmentation's), "projected" by
                        transposed convolutions and projections (LV-ViT's, which has none of stride 32); None: none
    backbone_arguments  further arguments of the backbone's class, such as drop_path, or pretrained=True for timm's
    own                 the decoder's own arguments
    """

    def stand(
        self,
        decoder: type[Decoder],
        backbone: str | nn.Module,
        output_stride: OutputStride,
        neck: Literal["pyramid", "multilevel", "projected"] | None,
        backbone_arguments: Mapping[str, Any] | None,
        own: dict[str, Any],
    ) -> Sequence[int]:
        """Makes backbone, neck and decoder -> channels of the features that the decoder takes."""
        arguments = dict(backbone_arguments or {})
        if output_stride == "auto":  # a preference of the decoder's; what the user typed is an order
            wish = decoder.prefers_output_stride
            output_stride = wish if wish is not None and can_have(backbone, wish) else None
        if decoder.final_norm is not None and isinstance(backbone, str) and can_take(backbone, "final_norm"):
            arguments.setdefault("final_norm", decoder.final_norm)
        if decoder.takes_prefix and isinstance(backbone, str) and backbone.startswith("timm:"):
            arguments.setdefault("out_indices", "quarters")  # as our own plain transformers have it
        self.backbone = create_backbone(
            backbone, in_channels=self.in_channels, **{"output_stride": output_stride, **arguments}
        )
        self.fixed_size = self.backbone.fixed_size
        self.preprocessing = self.backbone.preprocessing.for_channels(self.in_channels)
        if neck is not None and neck not in NECKS:
            raise ValueError(f"neck is {neck!r}; give {', '.join(map(repr, NECKS))}, or None")
        self.neck = NECKS[neck](self.backbone.channels, self.backbone.strides) if neck else None
        channels, strides = (self.neck or self.backbone).channels, (self.neck or self.backbone).strides
        if decoder.takes_prefix:
            own["prefixes"] = (0,) * len(channels) if self.neck else self.backbone.prefixes
        self.decoder = decoder(channels=channels, strides=strides, num_classes=self.num_classes, **own)
        self.align_corners = self.decoder.align_corners
        self.training_only = tuple(f"decoder.{path}" for path in self.decoder.training_only)
        return channels

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> what the decoder takes"""
        features = self.backbone(image)
        return features if self.neck is None else self.neck(features)


class EncoderDecoder(OnBackbone, SegmentationModel):
    """A backbone, a decoder on its features and, in training, an FCN head on the last feature but one.

    auxiliary           supervise the last feature but one too, with 0.4 of the weight (PSPNet, section 3.3); None: as the
                        decoder's paper does
    auxiliary_arguments further arguments of that FCN head: decoder_channels, convs, index of another feature; and another
                        weight of its loss
    context_aware       the classifier is made for each picture (`semantic.cac.with_cac`)

    The other arguments are `OnBackbone`'s.
    """

    def __init__(
        self,
        decoder: type[Decoder],
        *,
        num_classes: int,
        backbone: str | nn.Module = "resnet50",
        in_channels: int = 3,
        output_stride: OutputStride = "auto",
        neck: Literal["pyramid", "multilevel", "projected"] | None = None,
        auxiliary: bool | None = None,
        auxiliary_arguments: Mapping[str, Any] | None = None,
        backbone_arguments: Mapping[str, Any] | None = None,
        context_aware: bool = False,
        **own: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        if context_aware:
            from segmentarium.semantic import cac

            decoder = cac.context_aware(decoder)
        channels = self.stand(decoder, backbone, output_stride, neck, backbone_arguments, own)
        self.auxiliary = nn.ModuleDict()
        objective = self.decoder.objective()
        if decoder.auxiliary if auxiliary is None else auxiliary:
            told = {"index": -2 if len(channels) > 1 else -1, "weight": 0.4, **(auxiliary_arguments or {})}
            weight = told.pop("weight")
            self.auxiliary["aux"] = FCNHead(channels=channels, num_classes=num_classes, **told)
            objective = (*objective, Term("aux", weight, CrossEntropy(), of=("aux",)))
        self.training_only = ("auxiliary", *self.training_only)
        self.set_objective(*objective)

    def _taken(self, image: Tensor) -> tuple[list[Any], ...]:
        """The features, and their prefix tokens where the decoder reads them."""
        if not self.decoder.takes_prefix:
            return (self.features(image),)
        if self.neck is None:
            return self.backbone.forward_with_prefix(image)
        features = self.features(image)
        return features, [None] * len(features)

    def _cropped(self, output: Tensor, image: Tensor) -> Tensor:
        """What the decoder says of an image that was padded to multiples of what it `covers` -> of the image alone."""
        multiple = self.decoder.covers
        if multiple is None:
            return output
        height, width = image.shape[-2:]
        whole = tuple((side + multiple - 1) // multiple * multiple for side in (height, width))
        if not torch.compiler.is_exporting() and whole == (height, width):
            return output
        return resize(output, whole, align_corners=self.align_corners)[..., :height, :width]

    def logits(self, image: Tensor) -> Tensor:
        return self._cropped(self.decoder(*self._taken(image)), image)

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        taken = self._taken(image)
        outputs = {name: self._cropped(x, image) for name, x in self.decoder.forward_train(*taken).items()}
        return outputs | {name: head(taken[0]) for name, head in self.auxiliary.items()}


NEAR = 1e-5  # of the greatest number: what rounding in float32 may turn


class MaskClassifier(OnBackbone, MaskModel):
    """A backbone and a decoder that gives masks and their classes.

    things              classes whose segments are told apart, by index, or how many of the first classes; None: all

    The other arguments are `OnBackbone`'s.
    """

    def __init__(
        self,
        decoder: type[MaskDecoder],
        *,
        num_classes: int,
        things: int | Sequence[int] | None = None,
        backbone: str | nn.Module = "resnet50",
        in_channels: int = 3,
        output_stride: OutputStride = "auto",
        neck: Literal["pyramid", "multilevel"] | None = None,
        backbone_arguments: Mapping[str, Any] | None = None,
        **own: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, things=things)
        self.stand(decoder, backbone, output_stride, neck, backbone_arguments, own)
        self.set_objective(*self.decoder.objective())

    def forward_masks(self, image: Tensor) -> MaskSet:
        return MaskSet(*self.decoder(self.features(image)))

    def shifted(self) -> Iterator[None]:
        decoder = self.decoder
        if not isinstance(decoder, MaskDecoder) or decoder.shift is None:
            return
        before = decoder.shift
        try:
            for decoder.shift in (before - NEAR, before + NEAR):
                yield
        finally:
            decoder.shift = before

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        return self.decoder.forward_train(self.features(image))


class InstanceDetector(OnBackbone, InstanceModel):
    """A backbone and a decoder that gives boxes with masks.

    frozen_norms   the backbone's batch norms keep their statistics in training, as a batch of few pictures has none worth
                   keeping: for backbones with weights
    norm_eps       of the backbone's batch norms; None: its own

    The other arguments are `OnBackbone`'s.
    """

    def __init__(
        self,
        decoder: type[InstanceDecoder],
        *,
        num_classes: int,
        backbone: str | nn.Module = "resnet50",
        in_channels: int = 3,
        output_stride: OutputStride = "auto",
        neck: Literal["pyramid", "multilevel"] | None = None,
        backbone_arguments: Mapping[str, Any] | None = None,
        frozen_norms: bool = True,
        norm_eps: float | None = None,
        **own: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.stand(decoder, backbone, output_stride, neck, backbone_arguments, own)
        self.frozen_norms = frozen_norms
        for norm in self._norms() if norm_eps is not None else ():
            norm.eps = norm_eps
        self.set_objective(*self.decoder.objective())

    def _norms(self) -> list[Any]:
        return [module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for norm in self._norms() if self.frozen_norms else ():
            norm.eval()
        return self

    def seen(self, image: Tensor) -> Any:
        """The features; on processors with channels last, which 1×1 convolutions and `RoIAlign` want: a fifth of the time."""
        if image.device.type == "cpu" and not torch.compiler.is_compiling():
            image = image.contiguous(memory_format=torch.channels_last)
        return self.features(image)

    def forward_instances(self, image: Tensor) -> InstanceSet:
        return self.decoder(self.seen(image), image.shape[-2:])

    def forward_train(self, image: Tensor, segments: Target) -> dict[str, Tensor]:  # type: ignore[override]
        told = segments_of(segments, self.num_classes)
        if len(self.things) < self.num_classes:
            things = torch.tensor(self.things, device=image.device)
            kept = [torch.isin(one.labels, things) for one in told]
            told = [one._replace(labels=one.labels[k], masks=one.masks[k]) for one, k in zip(told, kept, strict=True)]
        decoder: Any = self.decoder
        return decoder.forward_train(self.seen(image), image.shape[-2:], told)


COMPOSITIONS = {MaskDecoder: MaskClassifier, InstanceDecoder: InstanceDetector}


@cache
def composed(decoder: type[Decoder]) -> Callable[..., OnBackbone]:
    """What builds `EncoderDecoder(decoder, …)`, of a mask decoder `MaskClassifier`, of one for instances `InstanceDetector`, with
    a signature that has the decoder's own arguments."""
    composition = next((c for kind, c in COMPOSITIONS.items() if issubclass(decoder, kind)), EncoderDecoder)
    build = partial(composition, decoder)
    shared = inspect.signature(composition).parameters
    own = inspect.signature(decoder).parameters
    parameters = [shared[name] for name in list(shared)[1:] if name != "own"]
    given = ("channels", "strides", "prefixes", "num_classes")
    parameters += [own[name] for name in own if name not in given]
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    build.__doc__, build.kind = decoder.__doc__, composition.kind  # type: ignore[attr-defined]
    return build


def register_decoder(
    name: str, decoder: type[Decoder], card: Card, *, tiny: Mapping[str, Any] | None = None, **arguments: Any
) -> None:
    """`create_model(name)` is the decoder on the backbone of `arguments`, or on the one that the user names."""
    register(name, composed(decoder), card, tiny=tiny, **arguments)


def register_mmsegmentation(
    decoder: type[Decoder],
    paper: Paper,
    variants: Mapping[str, tuple[int, float, float, float | None]],
    **arguments: Any,
) -> None:
    """A decoder on mmsegmentation's dilated ResNets, as it publishes most of them.

    variants   name -> the ResNet's depth, millions of parameters in training, and the mean IoU on Cityscapes' and ADE20K's val
               (None: not published)
    """
    for name, (depth, parameters, cityscapes, ade) in variants.items():
        card = Card(
            paper=paper,
            parameters=parameters,
            parameters_of="training",
            num_classes=19,
            scores={"Cityscapes val mIoU": cityscapes} | ({"ADE20K val mIoU": ade} if ade else {}),
        )
        register_decoder(name, decoder, card, backbone=f"resnet{depth}_v1c", **arguments)


# A backbone of each of timm's ways to make features: a convolutional network, a plain transformer, one with windows, branches.
OF_TIMM = (
    "timm:convnext_tiny",
    "timm:vit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:hrnet_w18_small",
)


@torch.no_grad()
def combinations(
    pattern: str = "*", backbones: Sequence[str] | None = None, *, family: str | None = None, kind: str | None = None
) -> dict[str, dict[str, str]]:
    """Which networks stand on which backbones: name -> backbone -> "yes", or why not.

    Each pair is built and run on 96×160 pixels, on the meta device: shapes without weights.

    pattern     of registered names (a shell pattern); networks without a `backbone` argument are left out, and of variants
                that are the same network on other backbones the first stands for all
    backbones   None: the first variant of each of our families, and `OF_TIMM`
    family, kind   of `list_models`
    """
    # backwards, so that of a network's variants the first comes last, and stays
    fitting = set(list_models(pattern, family=family, kind=kind))
    wanted = [name for name in reversed(known()) if name in fitting]
    if backbones is None:
        ours = {entry(name).module: name for name in reversed(known()) if known()[name]["kind"] == "classifier"}
        backbones = (*sorted(ours.values()), *OF_TIMM)
    networks = {entry(name).build: name for name in wanted if entry(name).takes("backbone")}
    return {name: {backbone: _stands(name, backbone) for backbone in backbones} for name in sorted(networks.values())}


def _stands(name: str, backbone: str) -> str:
    try:
        with on_meta():
            model = create_model(name, backbone=backbone).eval()
    except ValueError as error:
        return str(error)
    model(*model.example(size=(96, 160)))
    return "yes"
