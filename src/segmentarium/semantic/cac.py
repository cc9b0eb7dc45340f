"""CAC: the classifier is made anew for each picture, of what the picture shows.

Weights of the authors' code (Apache-2.0), which stands on mmsegmentation, load.

A 1×1 convolution that classifies has the same weights for every picture.  Here its first guess gathers a prototype of each class
in this picture, the mean of the features weighted by the class's probability; prototype and weights together, through a small
network, give the classifier of this picture, and the cosine between it and a feature, times 15, is the score.  In
training an oracle does the same with prototypes from the labels, by a network of its own; the guess, the oracle and the answer
have a cross entropy each, and the answer imitates the oracle, most where that is unsure, all classes alike.

    model = with_cac(create_model("pspnet_resnet50", num_classes=7))      # or create_model(..., context_aware=True)

It stands on every decoder whose last step is a 1×1 convolution; the authors publish FCN, DeepLabV3+, OCRNet and UPerNet.

What the public code does and the paper does not say: the oracle's prototypes are means over the whole batch, a class that is not
in it keeps the classifier's weights instead, without a gradient; what is imitated is half the oracle, half the label; the guess
is made behind a dropout, the answer is not; the oracle has no part in inference.
What we change: guess and oracle are brought to the labels as the answer is (theirs align corners there); labels at the features'
size are those in the middle of each cell (theirs: in its corner); ignored pixels count nowhere (theirs: in the mean of the
answer's cross entropy, `losses.CrossEntropy(average="all")`); sums over all places are taken in float32; lengths divide the
scores, not the features, and have a least value.  One class is refused: its softmax over classes is 1 everywhere.

Published (ADE20K val, single scale): FCN on MobileNetV2 37.42, DeepLabV3+ on ResNet-50 46.29, OCRNet on HRNet-W18 44.53, UPerNet
on Swin-T 46.91, Swin-B 52.46 and Swin-L 52.75 (both from ImageNet-22k).
Recipes, all ADE20K at 512×512, batch 16, 160,000 steps: those of the plain heads in mmsegmentation; UPerNet on Swin AdamW 6e-5,
decay 0.01, poly 1.0, 1,500 steps of warm-up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.composition import EncoderDecoder, register_decoder
from segmentarium.contracts import Decoder, Term
from segmentarium.labels import IGNORE_INDEX
from segmentarium.layers.norm import channels_last
from segmentarium.layers.precision import autocast_off
from segmentarium.layers.resize import labels_at, resize
from segmentarium.losses import CrossEntropy, EntropyDistillation
from segmentarium.losses.base import sums_by_label
from segmentarium.registry import Card, Paper
from segmentarium.semantic.deeplabv3plus import DeepLabV3PlusDecoder
from segmentarium.semantic.fcn import FCNDecoder
from segmentarium.semantic.ocrnet import TINY, OCRDecoder
from segmentarium.semantic.upernet import UPerDecoder

SCALE = 15.0  # of the cosine
SHORTEST = 1e-6  # length that a vector is taken to have at least


def projection(channels: int) -> nn.Sequential:
    """A prototype and the weights of its class (…, 2 · channels) -> what classifies, (…, channels)"""
    layers = nn.Linear(2 * channels, channels // 2, bias=False), nn.ReLU(inplace=True)
    return nn.Sequential(*layers, nn.Linear(channels // 2, channels))


def cosine_scores(feature: Tensor, classifier: Tensor) -> Tensor:
    """feature (B, C, h, w), classifier (K, C) or (B, K, C), float32 -> (B, K, h, w): the cosine, times `SCALE`"""
    scores = unit(classifier) @ feature.flatten(2)
    length = feature.square().sum(1, keepdim=True).clamp(min=SHORTEST**2).sqrt()
    return SCALE * scores.unflatten(2, feature.shape[2:]) / length


def unit(x: Tensor) -> Tensor:
    """Vectors along the last dimension, of length 1."""
    return x / x.square().sum(-1, keepdim=True).clamp(min=SHORTEST**2).sqrt()


class OracleCrossEntropy(nn.Module):
    """Cross entropy of an oracle's scores.

    oracle          (feature, labels at its size) -> scores; of the decoder, which has its parameters
    align_corners   how scores are brought to the labels' size
    """

    def __init__(self, oracle: Callable[[Tensor, Tensor], Tensor], align_corners: bool) -> None:
        super().__init__()
        self.oracle, self.align_corners = oracle, align_corners
        self.loss = CrossEntropy()

    def forward(self, feature: Tensor, target: Tensor) -> Tensor:
        """feature (B, C, h, w), labels (B, H, W) -> float32 scalar"""
        scores = self.oracle(feature, labels_at(target, feature.shape[-2:]))
        return self.loss(resize(scores, target.shape[-2:], align_corners=self.align_corners), target)


class OracleDistillation(nn.Module):
    """How far an answer is from an oracle's, at the feature's size.  oracle as above"""

    def __init__(self, oracle: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.oracle = oracle
        self.loss = EntropyDistillation()

    def forward(self, logits: Tensor, feature: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, h, w), feature (B, C, h, w), labels (B, H, W) -> float32 scalar"""
        labels = labels_at(target, feature.shape[-2:])
        with torch.no_grad():
            scores = self.oracle(feature, labels)
        return self.loss(logits, scores, labels)


class ContextAware(Decoder):
    """A decoder whose classifier is made for each picture.  -> logits at the stride of the decoder's.

    base                the decoder; it gives away its classifier, and the dropout in front of it
    channels, strides   of the features that it takes
    """

    training_only = ("oracle",)

    def __init__(self, base: Decoder, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        classifier, dropout = last_step(base, channels, strides)
        if classifier.out_channels == 1:
            raise ValueError(
                "num_classes is 1, and a context-aware classifier weighs features by a softmax over the classes, which of one "
                "class is 1 everywhere; give 2, background and foreground"
            )
        self.align_corners = base.align_corners
        self.training_only = ("oracle", *(f"base.{path}" for path in base.training_only))
        self.classifier, self.dropout = classifier, dropout or nn.Identity()
        for name, module in list(base.named_modules()):
            if module in (classifier, dropout):
                base.set_submodule(name, nn.Identity())
        self.base = base  # gives what it would have classified
        like = classifier.weight
        with torch.device(like.device):
            self.context, self.oracle = (projection(classifier.in_channels).to(like.dtype) for _ in range(2))

    @property
    def weights(self) -> Tensor:
        """(K, C) of the plain classifier"""
        return self.classifier.weight.flatten(1)

    def refine(self, feature: Tensor, guess: Tensor) -> Tensor:
        """feature (B, C, h, w) and the plain scores (B, K, h, w) -> those of the picture's own classifier, float32"""
        with autocast_off(feature.device):  # sums over all places
            x, share = feature.float(), guess.float().softmax(1).flatten(2)
            share = share / (share.sum(2, keepdim=True) + 1e-12)
            prototypes = (share @ x.flatten(2).transpose(1, 2)).to(self.weights.dtype)  # (B, K, C)
            both = torch.cat([prototypes, self.weights.expand_as(prototypes)], 2)
            return cosine_scores(x, self.context(both).float())

    def oracle_scores(self, feature: Tensor, labels: Tensor) -> Tensor:
        """feature (B, C, h, w) and labels (B, h, w) -> scores (B, K, h, w) of who knows the labels, float32"""
        with autocast_off(feature.device):
            x, weights = feature.float(), self.weights.float()
            number = len(weights)
            places = channels_last(x).flatten(0, 2)
            classes = labels.long().flatten()
            classes = classes.masked_fill(classes == IGNORE_INDEX, number)
            count = sums_by_label(torch.ones_like(places[:, :1]), classes, number)
            means = sums_by_label(places, classes, number) / count.clamp(min=1)
            prototypes = torch.where(count > 0, means, weights.detach())
            both = torch.cat([prototypes, weights], 1).to(self.weights.dtype)
            return cosine_scores(x, self.oracle(both).float())

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[(B, channels[i], h_i, w_i), …] -> (B, K, h, w)"""
        feature = self.base(features)
        return self.refine(feature, self.classifier(self.dropout(feature)))

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """The answer, the guess "plain", the feature (B, C, h, w) that both read, and what else the decoder supervises"""
        outputs = self.base.forward_train(features)
        feature = outputs["logits"]
        plain = self.classifier(self.dropout(feature))
        return outputs | {"logits": self.refine(feature, plain), "plain": plain, "feature": feature}

    def own_terms(self) -> tuple[Term, ...]:
        """What is supervised beside the answer and what the decoder has of its own, all with weight 1."""
        oracle = OracleCrossEntropy(self.oracle_scores, self.align_corners)
        mimic = OracleDistillation(self.oracle_scores)
        return (
            Term("plain", 1.0, CrossEntropy(), of=("plain",)),
            Term("oracle", 1.0, oracle, of=("feature",), at="as is", classes=False),
            Term("mimic", 1.0, mimic, of=("logits", "feature"), at="as is", classes=False),
        )

    def objective(self) -> tuple[Term, ...]:
        return (*self.base.objective(), *self.own_terms())


def last_step(decoder: Decoder, channels: Sequence[int], strides: Sequence[int]) -> tuple[nn.Conv2d, nn.Module | None]:
    """The 1×1 convolution that a decoder ends with, and the dropout that stands in front of it, if one does there alone.

    It is seen by running the decoder once on small features; one without numbers is believed, and its dropout stays.  ValueError
    where the last step is another.
    """
    conv = getattr(decoder, "classifier", None)
    refusal = (
        f"{type(decoder).__name__} does not end with a 1×1 convolution called `classifier`, which the context could change; "
        "give a decoder that does, such as FCN's"
    )
    plain = not decoder.takes_prefix and decoder.covers is None  # features in, a map of the whole image out
    if not plain or not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1):
        raise ValueError(refusal)
    if conv.weight.is_meta:
        return conv, None
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        calls.append((module, given[0], output))

    watched = [m for m in decoder.modules() if m is conv or isinstance(m, nn.Dropout | nn.Dropout2d)]
    handles = [module.register_forward_hook(note) for module in watched]
    training = decoder.training
    try:
        with torch.no_grad():
            sides = [max(1, 64 // stride) for stride in strides]
            scores = decoder.eval()([conv.weight.new_zeros(1, c, n, n) for c, n in zip(channels, sides, strict=True)])
    finally:
        decoder.train(training)
        for handle in handles:
            handle.remove()
    last, feature, output = calls[-1]
    if last is not conv or output is not scores:
        raise ValueError(refusal)
    before = [m for m, _, given in calls[:-1] if given is feature]
    alone = before and sum(m is before[-1] for m, _, _ in calls) == 1
    return conv, before[-1] if alone else None


@cache
def context_aware(base: type[Decoder]) -> type[Decoder]:
    """The decoder's class with a context-aware classifier: it takes the same arguments."""
    if issubclass(base, ContextAware):
        return base

    def build(self: ContextAware, **told: Any) -> None:
        ContextAware.__init__(self, base(**told), told["channels"], told["strides"])

    facts = {name: getattr(base, name) for name in ("prefers_output_stride", "final_norm", "auxiliary")}
    facts |= {"__doc__": f"{base.__doc__}\n    Its classifier is made for each picture (`ContextAware`)."}
    facts |= {"__init__": build, "__signature__": inspect.signature(base)}
    return type(f"ContextAware{base.__name__}", (ContextAware,), facts)


def with_cac(model: EncoderDecoder) -> EncoderDecoder:
    """Puts a context-aware classifier in place of the one that the decoder ends with, in place; returns the model.

    The decoder's weights stay; the new ones are the networks that make the classifier, and the oracle's, which only training
    uses.  What the model was trained to score has to be trained on.  A model that `create_model` made is saved and loaded with it
    (`context_aware=True` among its arguments makes the same).

    Raises ValueError for a model of another kind, one that has it, one class, and a decoder whose last step is another.
    """
    if not isinstance(model, EncoderDecoder):
        raise ValueError(
            f"{type(model).__name__} is no decoder on a backbone; give one, such as create_model('pspnet_resnet50')"
        )
    if isinstance(model.decoder, ContextAware):
        raise ValueError(f"{model.title} has a context-aware classifier already")
    if isinstance(model.given_arguments.get("dbb"), str):
        raise ValueError("its blocks were told by the names of layers, which now change; give with_cac before with_dbb")
    stands_on = model.neck or model.backbone
    aware = context_aware(type(model.decoder))
    decoder = aware.__new__(aware)
    assert isinstance(decoder, ContextAware)
    ContextAware.__init__(decoder, model.decoder, stands_on.channels, stands_on.strides)
    model.decoder = decoder.train(model.training)
    model.training_only = ("auxiliary", *(f"decoder.{path}" for path in decoder.training_only))
    model.set_objective(*model.objective, *decoder.own_terms())
    model.given_arguments = {**model.given_arguments, "context_aware": True}
    return model


PAPER = Paper(
    title="Learning Context-aware Classifier for Semantic Segmentation",
    authors="Tian, Cui, Jiang, Qi, Lai, Chen, Liu, Jia",
    venue="AAAI",
    year=2023,
    url="https://arxiv.org/abs/2303.11633",
    code="https://github.com/tianzhuotao/CAC",
    code_licence="Apache-2.0",
)
ADE, FROM_22K = "ADE20K val mIoU", "ADE20K val mIoU (from ImageNet-22k)"
LIMITS = {"one_class": "a softmax over one class is 1 everywhere, so that the context would be none"}


def _register(name: str, base: type[Decoder], scores: dict[str, float], tiny: dict[str, Any], **arguments: Any) -> None:
    card = Card(paper=PAPER, num_classes=150, scores=scores, limits=LIMITS)
    register_decoder(f"cac_{name}", context_aware(base), card, tiny=tiny, **arguments)


_register(
    "fcn_mobilenet_v2",
    FCNDecoder,
    {ADE: 37.42},
    {"decoder_channels": 32},
    backbone="mobilenet_v2",
    backbone_arguments={"contract_dilation": False, "dilate_first_only": True},
    auxiliary_arguments={"decoder_channels": 256},
    decoder_channels=512,
    convs=2,
    concatenate=True,
)
_register(
    "deeplabv3plus_resnet50",
    DeepLabV3PlusDecoder,
    {ADE: 46.29},
    {"decoder_channels": 32, "low_channels": 8},
    backbone="resnet50_v1c",
    output_stride=8,
    form="mmseg",
    decoder_channels=512,
)
_register(
    "ocrnet_hr18",
    OCRDecoder,
    {ADE: 44.53},
    TINY,
    backbone="hrnet_w18",
    backbone_arguments={"upsample": "bilinear"},
    joined=True,
    dropout=0.0,
)
for _size, _backbone, _scores in (
    ("tiny", "swin_t", {ADE: 46.91}),
    ("base_384", "swin_b_384", {FROM_22K: 52.46}),
    ("large_384", "swin_l_384", {FROM_22K: 52.75}),
):
    _register(
        f"upernet_swin_{_size}",
        UPerDecoder,
        _scores,
        {"decoder_channels": 32},
        backbone=_backbone,
        backbone_arguments={"shift_all": True, "drop_path": 0.3},
        auxiliary_arguments={"decoder_channels": 256},
    )
