"""SegViTv2: SegViT whose trunk keeps the edges when it shrinks, and which learns new classes without forgetting the old ones.

There is no public code.  This file was written from the abstract and from what is told of the paper; SegViT's parts are SegViT's
(semantic/segvit.py).  The abstract has: Shrunk++, an edge-aware query-based down-sampling (EQD) with a query-based up-sampling
(QU), which cuts the encoder's cost by up to a half; a decoder of about 5 % of UPerNet's; continual segmentation with nearly no
forgetting.

What is told and not certain: EQD keeps SegViT's grid of every second token and adds those that a light head marks as edges, a
multilayer perceptron with a binary loss of its own (weight 0.4, threshold 0.7); in continual learning the trunk and what belongs
to old tasks are frozen, and each step adds class tokens and a decoder.
What was chosen here: a patch is an edge if it shows two labels; the head is two layers on the tokens before the block that
shrinks; of the tokens off the grid at most one in three is kept (the likeliest), so that the trunk behind has half at most,
in exported graphs too, where that number is fixed and the rest is masked; queries of the full grid ask the tokens before and
behind, as SegViT's; a new task's layers start as the last task's; scores of all tasks are compared as they are, since each is a
probability.  Labels of old tasks' classes are outside of a new task's masks.

Published (multi-scale, BEiT-v2-L; no weights): ADE20K val 58.2, COCO-Stuff-10k 53.5, Pascal Context 67.14; shrunk 55.7 (ADE20K,
from the paper's figure).
Recipe: SegViT's.  Continual on ADE20K: 100 classes and 50 more, 100 and five times 10, 50 and twice 50.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.plain import PlainBackbone
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.labels import IGNORE_INDEX
from segmentarium.layers.attention import Attention
from segmentarium.layers.transformer import TransformerBlock
from segmentarium.losses.base import safe_divide
from segmentarium.losses.class_masks import Ignored
from segmentarium.palette import default_palette
from segmentarium.registry import Card, Paper, register
from segmentarium.semantic.segvit import (
    BASE,
    LARGE,
    TINY_PLAIN,
    AttentionToMask,
    GridQueries,
    SegViTDecoder,
    Stage,
    enlarge,
    mask_objective,
    semantic_logits,
    suffixes,
    supervised,
)


class PatchEdges(nn.Module):
    """Binary cross entropy of one logit a patch against whether it shows two labels; ignored pixels show none, and patches of
    them alone count nowhere."""

    def __init__(self, stride: int, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.stride, self.ignore_index = stride, ignore_index

    def edges(self, target: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Labels (B, H, W) -> of the (h, w) patches which are edges and which show any label, bool (B, h, w) each"""
        height, width = (side * self.stride for side in size)
        labels = F.pad(
            target.float(), (0, width - target.shape[2], 0, height - target.shape[1]), value=self.ignore_index
        )
        void = labels == self.ignore_index
        highest = F.max_pool2d(labels.masked_fill(void, -1)[:, None], self.stride)[:, 0]
        lowest = -F.max_pool2d((-labels).masked_fill(void, -torch.inf)[:, None], self.stride)[:, 0]
        return highest > lowest, highest >= 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, 1, h, w), target (B, H, W) -> float32 scalar"""
        edges, shown = self.edges(target, logits.shape[-2:])
        with torch.autocast(logits.device.type, enabled=False):
            loss = F.binary_cross_entropy_with_logits(logits[:, 0].float(), edges.float(), reduction="none")
            return safe_divide((loss * shown).sum(), shown.sum())


def grid_and_edges(probability: Tensor, size: Sequence[int], threshold: float, one_in: int) -> tuple[Tensor, Tensor]:
    """Which tokens of a grid (h, w) stay: every second in both directions, and the likeliest edges of the others.

    probability   of being an edge, (B, h·w)
    one_in        of the tokens off the grid at most one in so many stays
    -> their places (B, M), those of the grid first and in their order, and which of them are kept, bool (B, M)
    """
    height, width = size
    device = probability.device
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    on_grid = ((rows[:, None] % 2 == 0) & (columns % 2 == 0)).flatten()
    count = height * width
    on = ((height + 1) // 2) * ((width + 1) // 2)
    # greater than any probability, and falling, so that they come first and as they stand
    order = 3 - torch.arange(count, device=device, dtype=torch.float32) / count
    found, places = torch.where(on_grid, order, probability.detach().float()).topk(on + (count - on) // one_in, dim=1)
    return places, (found > threshold)


def gather_tokens(tokens: Tensor, places: Tensor, prefix: int) -> Tensor:
    """(B, P + N, D) and places (B, M) behind the prefix tokens -> (B, P + M, D)"""
    rest = tokens[:, prefix:].gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
    return torch.cat([tokens[:, :prefix], rest], 1) if prefix else rest


class ShrunkPlusPlus(nn.Module):
    """EQD at one block of a plain transformer, and QU behind the last: an image -> queries of all patches.

    shrink      the block at which the tokens become fewer
    threshold   probability from which on a token is an edge
    one_in      see `grid_and_edges`
    """

    def __init__(
        self,
        backbone: PlainBackbone,
        shrink: int,
        *,
        threshold: float,
        one_in: int,
        grid: int | Sequence[int],
        width: int,
        heads: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels = backbone.channels[-1]
        self.shrink, self.threshold, self.one_in = shrink, threshold, one_in
        self.edge = nn.Sequential(nn.Linear(channels, channels // 4), nn.GELU(), nn.Linear(channels // 4, 1))
        self.queries = GridQueries((grid, grid) if isinstance(grid, int) else grid, width)
        self.stages = nn.ModuleList(Stage(channels, width, heads, layers, dropout) for _ in range(2))

    def encode(
        self, backbone: PlainBackbone, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, tuple[int, int]]:
        """-> the tokens before the block that shrinks (B, N, D), those behind all blocks (B, M, D), which of these are kept,
        (B, M), None: all, the edges' logits (B, N), and the grid (h, w)"""
        tokens, size = backbone.embed_patches(image)
        prefix = backbone.prefix_tokens
        for block in backbone.blocks[: self.shrink]:
            tokens = block(tokens)
        shallow = tokens[:, prefix:]
        edges = self.edge(shallow).squeeze(-1)
        places, kept = grid_and_edges(edges.sigmoid(), size, self.threshold, self.one_in)
        mask: Tensor | None = kept
        if not (tokens.is_meta or torch.compiler.is_compiling() or torch.compiler.is_exporting()):
            counts = kept.sum(1)
            most = int(counts.max())
            places, kept = places[:, :most], kept[:, :most]
            mask = None if int(counts.min()) == most else kept
        seen = None if mask is None else F.pad(mask, (prefix, 0), value=True)[:, None, None]
        tokens = backbone.blocks[self.shrink].shrink(tokens, partial(gather_tokens, places=places, prefix=prefix))  # type: ignore[operator]
        for block in backbone.blocks[self.shrink + 1 :]:
            tokens = block(tokens, seen)
        deep = tokens[:, prefix:]
        return shallow, backbone.norm(deep) if backbone.norm_last else deep, mask, edges, size

    def forward(self, backbone: PlainBackbone, image: Tensor) -> tuple[Tensor, tuple[int, int], Tensor]:
        """-> queries (B, h·w, width), (h, w), and the edges' logits (B, 1, h, w)"""
        shallow, deep, mask, edges, size = self.encode(backbone, image)
        queries = self.stages[0](self.queries(size, image.shape[0]), shallow)
        queries = self.stages[1](queries, deep, None if mask is None else mask[:, None, None])
        return queries, size, edges.unflatten(1, size)[:, None]


class SegViTv2(SegmentationModel):
    """Attention to mask on any backbone, or behind Shrunk++ on a plain transformer, for tasks that come one after the other.

    tasks               classes of each task, in the order of their coming; None: all classes are one task
    shrink              block at which Shrunk++ sets in; None: the backbone's features are taken as they are
    threshold, one_in   of Shrunk++
    grid                of its learned queries, (height, width) or both in one; they are interpolated
    stages              without Shrunk++, how many of the deepest features are asked
    backbone, backbone_arguments, width, heads, layers, dropout, ignored   as SegViT has them

    With more than one task, all but the last, the trunk among it, is frozen; `add_task` makes it so.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: str | nn.Module = "vit_base_patch16_384",
        in_channels: int = 3,
        tasks: Sequence[int] | None = None,
        shrink: int | None = None,
        threshold: float = 0.7,
        one_in: int = 3,
        grid: int | Sequence[int] = 32,
        width: int = 384,
        heads: int = 12,
        layers: int = 3,
        stages: int = 3,
        dropout: float = 0.1,
        ignored: Ignored = "excluded",
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.task_classes = (num_classes,) if tasks is None else tuple(tasks)
        if sum(self.task_classes) != num_classes or min(self.task_classes, default=0) < 1:
            raise ValueError(f"tasks have {self.task_classes} classes; give 1 or more each, {num_classes} in all")
        if one_in < 1 or layers < 1:
            raise ValueError(f"one_in is {one_in} and layers {layers}; give 1 or more")
        self.backbone = create_backbone(backbone, in_channels=in_channels, **dict(backbone_arguments or {}))
        self.fixed_size = self.backbone.fixed_size
        self.preprocessing = self.backbone.preprocessing.for_channels(in_channels)
        self.ignored: Ignored = ignored
        self.shrunk: ShrunkPlusPlus | None = None
        own = {"width": width, "heads": heads, "layers": layers, "dropout": dropout}
        if shrink is not None:
            trunk = _plain(self.backbone, shrink)
            self.shrunk = ShrunkPlusPlus(trunk, shrink, threshold=threshold, one_in=one_in, grid=grid, **own)
            self.stride = trunk.strides[-1]
            self._make = partial(AttentionToMask, **own)
        else:
            channels, strides = self.backbone.channels, self.backbone.strides
            self._make = partial(SegViTDecoder, channels=channels, strides=strides, stages=stages, **own)
            self.stride = strides[-min(stages, len(strides))]
        self.tasks = nn.ModuleList(self._make(num_classes=count) for count in self.task_classes)
        self._settle()

    def _settle(self) -> None:
        """Freezes what is not the last task's, where there are several, and says what is supervised."""
        for part in self._frozen():
            part.requires_grad_(False)
        self.train(self.training)
        first = 1 if self.num_classes == 1 else sum(self.task_classes[:-1])
        last = self.tasks[-1]
        count = len(last.stages) if isinstance(last, SegViTDecoder) else len(last.layers)  # type: ignore[arg-type]
        terms = list(mask_objective(suffixes(count), self.ignored, first))
        if self._edges_learn():
            terms.append(Term("edges", 0.4, PatchEdges(self.stride), of=("edges",), at="as is", classes=False))
        self.set_objective(*terms)

    def _frozen(self) -> Iterator[nn.Module]:
        if len(self.tasks) > 1:
            yield self.backbone
            yield from self.tasks[:-1]
            if self.shrunk is not None:
                yield self.shrunk

    def _edges_learn(self) -> bool:
        return self.shrunk is not None and len(self.tasks) == 1

    def train(self, mode: bool = True) -> Self:
        """What is frozen stays as in evaluation."""
        super().train(mode)
        for part in self._frozen() if mode else ():
            part.eval()
        return self

    def add_task(self, names: Sequence[str]) -> None:
        """A decoder for further classes, called `names`; everything that was there is frozen, in place.

        The classes follow those that are known, in their order; so do their labels.
        """
        if self.num_classes == 1:
            raise ValueError("the model has one class, which is one sigmoid logit: build it with two to add tasks")
        if not names:
            raise ValueError("names is empty; give the name of each new class")
        old, last = self.num_classes, self.tasks[-1]
        added = self._make(num_classes=len(names))
        like = next(last.parameters())
        added.to(device=like.device, dtype=like.dtype)
        learnt = {
            key: value for key, value in last.state_dict().items() if not key.startswith(("class_tokens", "classify"))
        }
        added.load_state_dict(learnt, strict=False)
        self.tasks.append(added)
        self.task_classes = (*self.task_classes, len(names))
        self.num_classes = old + len(names)
        self.classes = (*self.classes[:old], *names)
        self.palette = (*self.palette[:old], *default_palette(self.num_classes)[old:])
        self.given_arguments = {
            **self.given_arguments,
            "num_classes": self.num_classes,
            "tasks": list(self.task_classes),
        }
        self._settle()

    def _trunk(self, image: Tensor) -> tuple[Any, Tensor | None]:
        """-> what the tasks take, and the edges' logits"""
        if self.shrunk is None:
            return (self.backbone(image),), None
        assert isinstance(self.backbone, PlainBackbone)
        queries, size, edges = self.shrunk(self.backbone, image)
        return (queries, size), edges

    def _found(self, task: nn.Module, given: tuple[Any, ...]) -> list[tuple[Tensor, Tensor]]:
        """Answers and masks of all stages or layers of a task that are supervised."""
        if isinstance(task, SegViTDecoder):
            return [(task.classify(tokens), masks) for tokens, masks in task.every_stage(*given)]
        assert isinstance(task, AttentionToMask)
        return task.every_layer(*given)

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, …), the classes of all tasks in their order, at the size of the image's whole patches"""
        given, _ = self._trunk(image)
        scores = []
        for task in self.tasks:
            if isinstance(task, SegViTDecoder):
                *_, (tokens, masks) = task.every_stage(*given)
                answers = task.classify(tokens)
            else:
                answers, masks = task(*given)
            scores.append(semantic_logits(answers, enlarge(masks, self.stride), binary=self.num_classes == 1))
        return torch.cat(scores, 1)

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        """ "logits" are the masks (B, k, h, w) of the last task's k classes, "class_logits" (B, k, k + 1) its answers, "masks_0",
        … those before the last stage or layer, "edges" (B, 1, h, w)."""
        given, edges = self._trunk(image)
        outputs = supervised(self._found(self.tasks[-1], given))
        return outputs | ({"edges": edges} if edges is not None and self._edges_learn() else {})


def _plain(backbone: nn.Module, shrink: int) -> PlainBackbone:
    """The backbone, if Shrunk++ can work on it; ValueError else."""
    blocks = backbone.blocks if isinstance(backbone, PlainBackbone) else ()
    plain = [isinstance(block, TransformerBlock) and isinstance(block.attention, Attention) for block in blocks]
    if not isinstance(backbone, PlainBackbone) or not all(plain) or getattr(backbone, "shrink", None) is not None:
        raise ValueError(
            f"Shrunk++ runs the blocks of a plain transformer, and {type(backbone).__name__} is none: give shrink=None, or one "
            "of our ViT, built without shrink"
        )
    if shrink not in range(len(blocks)):
        raise ValueError(f"shrink is {shrink}; give a block, 0 to {len(blocks) - 1}, or None")
    return backbone


PAPER = Paper(
    title="SegViTv2: Exploring Efficient and Continual Semantic Segmentation with Plain Vision Transformers",
    authors="Zhang, Liu, Phan, Tian, Shen, Liu",
    venue="IJCV",
    year=2023,
    url="https://arxiv.org/abs/2306.06289",
)
TINY = {"width": 64, "heads": 4, "layers": 2}
register(
    "segvitv2_vit_base",
    SegViTv2,
    Card(paper=PAPER, num_classes=150),
    tiny={**TINY, "backbone_arguments": {**TINY_PLAIN, "out_indices": [1, 2, 3]}},
    backbone="vit_base_patch16_384",
    backbone_arguments=BASE,
)
register(
    "segvitv2_shrunk_vit_large",
    SegViTv2,
    Card(paper=PAPER, num_classes=150),
    tiny={**TINY, "backbone_arguments": TINY_PLAIN, "shrink": 2, "grid": 8},
    backbone="vit_large_patch16_384",
    backbone_arguments={key: value for key, value in LARGE.items() if key != "out_indices"},
    shrink=8,
    grid=40,
    width=512,
    heads=16,
)
