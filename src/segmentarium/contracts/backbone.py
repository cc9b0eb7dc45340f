"""`Backbone`: an image to a feature pyramid, and to class scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from segmentarium.contracts.model import Term
from segmentarium.layers.init import init_classifier
from segmentarium.layers.pooling import global_average_pool
from segmentarium.losses import LabelCrossEntropy
from segmentarium.preprocessing import Preprocessing


class Backbone(nn.Module):
    """An image to a feature pyramid, finest first.

    A family gives `pyramid` and calls `describe` when its layers stand.  `forward` gives the features of `out_indices`;
    `classify` the class scores, where it was built with `num_classes`.

    channels, strides   of each feature that `forward` gives
    all_channels, …     of each feature of the pyramid
    out_indices         which of the pyramid's features `forward` gives
    num_classes         of `classify`; None: it has no classifier
    preprocessing       what its weights want of a picture
    prefix_tokens       of a plain transformer: tokens before those of the map, such as the class token; None: it is none
    """

    kind: ClassVar[str] = "classifier"  # of the model that `create_model` makes of it
    preprocessing: Preprocessing = Preprocessing()
    fixed_size: tuple[int, int] | None = None  # the only (height, width) that it takes; None: any of 32 or more
    prefix_tokens: int | None = None
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    all_channels: tuple[int, ...] = ()
    all_strides: tuple[int, ...] = ()

    def __init__(self, *, in_channels: int = 3, num_classes: int | None = None) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels is {in_channels}; give the number of input channels, 1 or more")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; give the number of classes, 1 or more, or None")
        self.in_channels = in_channels
        self.num_classes = num_classes

    def describe(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_indices: Sequence[int],
        *,
        head: int | nn.Module | None = None,
    ) -> None:
        """Notes the pyramid's channels and strides, checks `out_indices`, and makes the classifier, if one is wanted.

        head   channels that the classifier sees, or the classifier itself; None: those of the deepest feature
        """
        known = range(len(channels))
        if not out_indices or any(index not in known for index in out_indices):
            raise ValueError(
                f"out_indices is {tuple(out_indices)}; give some of {', '.join(map(str, known))}, "
                f"the features of strides {', '.join(map(str, strides))}"
            )
        self.all_channels, self.all_strides = tuple(channels), tuple(strides)
        self.out_indices = tuple(sorted(out_indices))
        self.channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)
        self.classifier: nn.Module | None = None
        if self.num_classes is not None:
            layer = head if isinstance(head, nn.Module) else nn.Linear(head or channels[-1], self.num_classes)
            self.classifier = init_classifier(layer)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """(B, C, H, W), any H and W of 32 or more -> every feature, finest first: (B, channels, ceil(H / stride), …).

        What lies behind the deepest of `out_indices` may be left out.
        """
        raise NotImplementedError

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> the features of `out_indices`"""
        features = self.pyramid(image)
        return [features[i] for i in self.out_indices]

    def embed(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D): what the classifier sees; the mean of the deepest feature, unless the paper has another."""
        return global_average_pool(self.pyramid(image)[-1]).flatten(1)

    def classify(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes) logits"""
        if self.classifier is None:
            raise ValueError(f"this {type(self).__name__} has no classifier; build it with num_classes")
        return self.classifier(self.embed(image))

    def classify_train(self, image: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> what of its classification a paper supervises, by name; "logits" (B, num_classes) among it."""
        return {"logits": self.classify(image)}

    def objective(self) -> tuple[Term, ...]:
        """Of a classifier: cross entropy of the logits, unless the paper has more."""
        return (Term("cross_entropy", 1.0, LabelCrossEntropy(), on="label", at="as is"),)

    def forward_tokens(self, image: Tensor, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """(B, C, H, W) -> of the blocks `indices` of a plain transformer: the map (B, D, h, w) and its prefix tokens
        (B, P, D), such as the class token.  ValueError for a network that is none."""
        raise ValueError(f"{type(self).__name__} is no plain transformer; it has no blocks of tokens to tap")

    @property
    def prefixes(self) -> tuple[int, ...]:
        """How many prefix tokens each feature of `forward` comes with."""
        return (self.prefix_tokens or 0,) * len(self.out_indices)

    def forward_with_prefix(self, image: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """(B, C, H, W) -> the features of `forward`, and the prefix tokens (B, P, channels) of each; None: it has none"""
        if not self.prefix_tokens:
            return self(image), [None] * len(self.out_indices)
        taps = self.forward_tokens(image, self.out_indices)
        return [feature for feature, _ in taps], [prefix for _, prefix in taps]

    def at(self, stride: int) -> int:
        """Index of the deepest feature of that stride (a dilated backbone has several); ValueError where there is none."""
        found = [i for i, s in enumerate(self.strides) if s == stride]
        if not found:
            raise ValueError(
                f"{type(self).__name__} has no feature of stride {stride}, which is needed; it has {self.strides}"
            )
        return found[-1]

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone besides norms and biases: position tables, tokens."""
        return set()

    def not_pretrained(self) -> set[str]:
        """Names of parameters that a classifier's weights do not have, and that may therefore stay as drawn: the norms of
        features that only dense prediction reads."""
        return set()

    def receive(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a pretraining gave a backbone of this family, by its keys -> what this one has of it, by its own, where they
        differ by more than a size: a norm that it was built without, one table for all blocks."""
        return dict(state)

    num_layers: int = 0  # depth in the sense of layer-wise learning rates; 0: the family does not say
    layer_row: ClassVar[str] = ""  # the list of modules each of which is a layer, where all layers stand in one

    def layer_of(self, name: str) -> int:
        """How deep the parameter `name` stands: 0 the stem, `num_layers` the classifier.

        Of a family with a `layer_row`: what is no `stem` and not in the row stands with the classifier.
        """
        if not self.layer_row:
            raise NotImplementedError(f"{type(self).__name__} does not say how deep its layers stand")
        part, _, rest = name.partition(".")
        if part == self.layer_row:
            return int(rest.partition(".")[0]) + 1
        return 0 if part == "stem" else self.num_layers

    def depth_of(self, name: str) -> int:
        """`layer_of` for blocks put in later, too (`insert_block`): they are as deep as what they stand behind."""
        part, _, rest = name.partition(".")
        if part != "inserted":
            return self.layer_of(name)
        place = rest.partition(".")[0]
        return max(
            self.layer_of(key) for key, _ in self.named_parameters() if key.replace(".", "_").startswith(f"{place}_")
        )
