"""ENet: a large encoder at 1/8 and a decoder that only unpools.

The authors' code is Lua (e-lab/ENet-training, no licence); people hold weights of a PyTorch port, whose present form and that
of March 2018 both load.

An image is brought to 1/8 at once and stays there: a large encoder of bottlenecks (plain, dilated, asymmetric 5×1 and 1×5),
and a small decoder that only unpools, putting values back to where the encoder's max pooling had found them.  The encoder
is trained first, with a classifier of its own at 1/8 on labels of that size (`enet_encoder`); then the whole network,
starting from that encoder: `create_model("enet", weights=...)` takes the file of the first stage.  Classes are weighted
by 1 / ln(c + p), p the share of a class's pixels: c is 1.02 in the paper, and 1.2 for the encoder in the authors' code.

The three forms differ in what the paper leaves open:

                              port (default)       port-2018           paper (the Lua code)
    PReLU's parameters        one                  one; after sums C   one a channel
    decoder's activation      ReLU                 PReLU               ReLU
    activation before a sum   all but upsampling   everywhere          nowhere
    a bottleneck's width      a quarter of input   a quarter of input  a quarter of output
    pooling windows           2×2                  3×3, overlapping    2×2
    upsampling kernel, last   2×2, 3×3             3×3, 3×3            3×3, 2×2
    asymmetric convolutions   5×1, norm, act, 1×5  the same            1×5, 5×1

Dropout is of channels.  Where overlapping windows share their maximum the later one is unpooled.

Published: CamVid test 51.3 and Cityscapes test 58.3 class mIoU; 0.37 M parameters, 3.83 GFLOPs at 640×360.  The checkpoint of
2018 scores 53.3 on CamVid test (480×360).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.checks import check_choice
from segmentarium.contracts import Preprocessing, SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.strided import ConvPool, Upconv
from segmentarium.layers.unpooling import ReversiblePool
from segmentarium.losses import CrossEntropy
from segmentarium.registry import Card, Paper, register

Activation = Literal["prelu", "relu"]
FormName = Literal["port", "port-2018", "paper"]


class SlopedReLU(nn.PReLU):
    """PReLU; with one parameter, its deploy form is a leaky ReLU, which engines fuse with the convolution before it."""

    def reparameterize(self) -> nn.Module | None:
        # in place: what stands before it is used by nothing else
        return nn.LeakyReLU(self.weight.item(), inplace=True) if self.num_parameters == 1 else None


@dataclass(frozen=True)
class Form:
    """What the three implementations do differently; see the head of this file."""

    slopes_inside: bool = False  # PReLU within bottlenecks has a parameter a channel
    slopes_outside: bool = False  # and the one after their sums
    act_before_sum: bool = True
    act_before_sum_up: bool = False
    quarter_of_output: bool = False
    pool_size: int = 2
    round_up: bool = False  # odd sides
    initial_pool_size: int = 3
    up_size: int = 2
    last_size: int = 3
    asymmetric_norm: bool = True
    bias: bool = False  # of the first, the middle and the last convolutions
    dropout_up: float = 0.1
    eps: float = 1e-5

    def pool(self) -> ReversiblePool:
        return ReversiblePool(self.pool_size, round_up=self.round_up)

    def norm(self, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, self.eps)

    def act(self, name: Activation, channels: int, per_channel: bool) -> Callable[[], nn.Module]:
        check_choice("the activation", name, get_args(Activation))
        if name == "relu":
            return lambda: nn.ReLU(inplace=True)
        return lambda: SlopedReLU(channels if per_channel else 1)

    def inside(self, name: Activation, channels: int) -> Callable[[], nn.Module]:
        return self.act(name, channels, self.slopes_inside)

    def outside(self, name: Activation, channels: int) -> nn.Module:
        return self.act(name, channels, self.slopes_outside)()


FORMS: dict[str, Form] = {
    "port": Form(),
    "port-2018": Form(slopes_outside=True, act_before_sum_up=True, pool_size=3, round_up=True, up_size=3),
    "paper": Form(
        slopes_inside=True, slopes_outside=True, act_before_sum=False, quarter_of_output=True, round_up=True,
        initial_pool_size=2, up_size=3, last_size=2, asymmetric_norm=False, bias=True, dropout_up=0.0, eps=1e-3,
    ),
}  # fmt: skip


class Bottleneck(nn.Module):
    """Reduce by 1×1, convolve, expand by 1×1, add to the input (figure 2b)."""

    def __init__(
        self, form: Form, act: Activation, channels: int, dropout: float, dilation: int = 1, asymmetric: bool = False
    ) -> None:
        super().__init__()
        width = channels // 4
        inside = form.inside(act, width)
        self.reduce = ConvNormAct(channels, width, 1, norm=form.norm, act=inside)
        if not asymmetric:
            self.conv: nn.Module = ConvNormAct(
                width, width, dilation=dilation, bias=form.bias, norm=form.norm, act=inside
            )
        elif form.asymmetric_norm:
            self.conv = nn.Sequential(
                ConvNormAct(width, width, (5, 1), norm=form.norm, act=inside),
                ConvNormAct(width, width, (1, 5), norm=form.norm, act=inside),
            )
        else:
            self.conv = nn.Sequential(
                nn.Conv2d(width, width, (1, 5), padding=(0, 2), bias=False),
                ConvNormAct(width, width, (5, 1), bias=form.bias, norm=form.norm, act=inside),
            )
        self.expand = ConvNormAct(
            width, channels, 1, norm=form.norm, act=form.inside(act, channels) if form.act_before_sum else None
        )
        self.dropout = nn.Dropout2d(dropout)
        self.act = form.outside(act, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape"""
        return self.act(x + self.dropout(self.expand(self.conv(self.reduce(x)))))


class DownBottleneck(nn.Module):
    """A bottleneck of stride 2; its other branch is max pooling, with zeros for the channels that it lacks.

    Returns the features, and where the maxima stood, for the unpooling.
    """

    def __init__(self, form: Form, act: Activation, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        width = (out_channels if form.quarter_of_output else in_channels) // 4
        self.pool = form.pool()
        inside = form.inside(act, width)
        self.reduce = ConvNormAct(in_channels, width, 2, 2, padding=0, norm=form.norm, act=inside)
        self.conv = ConvNormAct(width, width, bias=form.bias, norm=form.norm, act=inside)
        self.expand = ConvNormAct(
            width, out_channels, 1, norm=form.norm, act=form.inside(act, out_channels) if form.act_before_sum else None
        )
        self.dropout = nn.Dropout2d(dropout)
        self.act = form.outside(act, out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> (B, out_channels, H/2, W/2), and places (B, in_channels, H/2, W/2)"""
        pooled, places = self.pool(x)
        if self.pool.round_up and (torch.compiler.is_exporting() or x.shape[-1] % 2 or x.shape[-2] % 2):
            x = F.pad(x, (0, 1, 0, 1))  # then the strided convolution rounds up too; even sides do not see it
        y = self.dropout(self.expand(self.conv(self.reduce(x))))
        shared = pooled.shape[1]
        return self.act(torch.cat([y[:, :shared] + pooled, y[:, shared:]], 1)), places


class UpBottleneck(nn.Module):
    """A bottleneck with a transposed convolution; its other branch is a 1×1 convolution, unpooled."""

    def __init__(self, form: Form, act: Activation, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        width = (out_channels if form.quarter_of_output else in_channels) // 4
        inside = form.inside(act, width)
        self.pool = form.pool()
        self.main = ConvNormAct(in_channels, out_channels, 1, norm=form.norm, act=None)
        self.reduce = ConvNormAct(in_channels, width, 1, norm=form.norm, act=inside)
        self.up = Upconv(width, width, form.up_size, 2, form.up_size // 3, output_padding=1, bias=form.bias)
        self.up_norm = form.norm(width)
        self.up_act = inside()
        self.expand = ConvNormAct(
            width, out_channels, 1, norm=form.norm, act=inside if form.act_before_sum_up else None
        )
        self.dropout = nn.Dropout2d(dropout)
        self.act = form.outside(act, out_channels)

    def forward(self, x: Tensor, places: Tensor, size: torch.Size) -> Tensor:
        """(B, in_channels, h, w), the pooling's places and input size -> (B, out_channels, *size)"""
        main = self.pool.undo(self.main(x), places, size)
        y = self.expand(self.up_act(self.up_norm(self.up(self.reduce(x), size))))
        return self.act(main + self.dropout(y))


def _stage(form: Form, act: Activation) -> nn.Sequential:
    """The eight bottlenecks of stages 2 and 3 (table 1), the third and seventh asymmetric."""
    dilations = (1, 2, 1, 4, 1, 8, 1, 16)
    return nn.Sequential(*(Bottleneck(form, act, 128, 0.1, d, i in (2, 6)) for i, d in enumerate(dilations)))


class Encoder(nn.Module):
    """Initial block and stages 1 to 3, and what the decoder needs to go back."""

    def __init__(self, form: Form, act: Activation, in_channels: int) -> None:
        super().__init__()
        self.initial = ConvPool(
            in_channels,
            16,
            pool_size=form.initial_pool_size,
            bias=form.bias,
            eps=form.eps,
            act=form.act(act, 16, form.slopes_outside),
        )
        self.down1 = DownBottleneck(form, act, 16, 64, 0.01)
        self.stage1 = nn.Sequential(*(Bottleneck(form, act, 64, 0.01) for _ in range(4)))
        self.down2 = DownBottleneck(form, act, 64, 128, 0.1)
        self.stage2 = _stage(form, act)
        self.stage3 = _stage(form, act)

    def forward(self, image: Tensor) -> tuple[Tensor, list[tuple[Tensor, torch.Size]]]:
        """(B, C, H, W) -> (B, 128, H/8, W/8); and of the poolings at 1/2 and 1/4 their places and input sizes"""
        x2 = self.initial(image)
        x4, places2 = self.down1(x2)
        x4 = self.stage1(x4)
        x8, places4 = self.down2(x4)
        return self.stage3(self.stage2(x8)), [(places2, x2.shape[-2:]), (places4, x4.shape[-2:])]


class ENetEncoder(SegmentationModel):
    """The first stage of training: the encoder with a classifier at 1/8, on labels of that size."""

    def __init__(
        self, *, num_classes: int = 19, in_channels: int = 3, form: FormName = "port", encoder_act: Activation = "prelu"
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.encoder = Encoder(_form(form), encoder_act, in_channels)
        # behind so many sums without a norm, features are several times as large as elsewhere
        self.classifier = init_classifier(nn.Conv2d(128, num_classes, 1), std=0.003)
        self.preprocessing = _unit_range(in_channels)
        self.set_objective(Term("logits", 1.0, CrossEntropy(), at="output"))

    def logits(self, image: Tensor) -> Tensor:
        return self.classifier(self.encoder(image)[0])


class ENet(SegmentationModel):
    """The whole network.

    form                       "port" (PyTorch-ENet), "port-2018" (its first form), "paper" (the authors' Lua code)
    encoder_act, decoder_act   "prelu" or "relu"; the paper found no gain from PReLU in the decoder
    """

    first_stage: ClassVar[tuple[str, str]] = ("enet_encoder", "encoder.")

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        form: FormName = "port",
        encoder_act: Activation = "prelu",
        decoder_act: Activation = "relu",
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        parts, act = _form(form), decoder_act
        self.encoder = Encoder(parts, encoder_act, in_channels)
        self.up4 = UpBottleneck(parts, act, 128, 64, parts.dropout_up)
        self.stage4 = nn.Sequential(*(Bottleneck(parts, act, 64, parts.dropout_up) for _ in range(2)))
        self.up5 = UpBottleneck(parts, act, 64, 16, parts.dropout_up)
        self.stage5 = Bottleneck(parts, act, 16, parts.dropout_up)
        size = parts.last_size
        self.classifier = init_classifier(
            Upconv(16, num_classes, size, 2, size // 3, output_padding=size // 3, bias=parts.bias)
        )
        self.preprocessing = _unit_range(in_channels)
        self.set_objective(Term("logits", 1.0, CrossEntropy()))

    def forward(self, image: Tensor) -> Tensor:
        x, (fine, coarse) = self.encoder(image)
        x = self.stage4(self.up4(x, *coarse))
        x = self.stage5(self.up5(x, *fine))
        return self.classifier(x, image.shape[-2:])

    logits = forward  # at the image's size already


def _form(name: str) -> Form:
    check_choice("form", name, FORMS)
    return FORMS[name]


def _unit_range(in_channels: int) -> Preprocessing:
    """All implementations see images in [0, 1], neither centred nor scaled."""
    return Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).for_channels(in_channels)


PAPER = Paper(
    title="ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation",
    authors="Paszke, Chaurasia, Kim, Culurciello",
    venue="arXiv",
    year=2016,
    url="https://arxiv.org/abs/1606.02147",
    code="https://github.com/davidtvs/PyTorch-ENet",
    code_licence="MIT",
)
SCORES = {"CamVid test mIoU (480×360)": 51.3, "Cityscapes test mIoU": 58.3}
FLOPS = "the paper's 3.83 GFLOPs are 1.92 G multiply-adds; the convolutions of its authors' code have 1.72"
AUTOCAST = (
    "rounded, another pixel of a pooling window may be its maximum, and values are unpooled there: single logits differ by "
    "more than a tenth of the largest (of the CamVid checkpoint's classes 99.5 % stay)"
)
EXPORT = (
    "where two values of a pooling window differ by rounding alone, another engine may unpool at the other: untrained, on some "
    "images and sizes, single logits differ by up to a tenth of the largest, 0.1 % of the classes"
)

register(
    "enet",
    ENet,
    Card(paper=PAPER, num_classes=19, scores=SCORES, limits={"autocast": AUTOCAST}),
)
register(
    "enet_2018",
    ENet,
    Card(
        paper=PAPER,
        num_classes=19,
        scores={"CamVid test mIoU (480×360, PyTorch-ENet)": 53.3},
        limits={"export": EXPORT},
    ),
    form="port-2018",
    decoder_act="prelu",
)
register(
    "enet_paper",
    ENet,
    Card(
        paper=PAPER,
        parameters=0.37,
        flops=1.92,
        flops_size=(360, 640),
        num_classes=19,
        scores=SCORES,
        limits={"flops": FLOPS, "export": EXPORT},
    ),
    form="paper",
)
register("enet_encoder", ENetEncoder, Card(paper=PAPER, num_classes=19))
