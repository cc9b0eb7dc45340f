"""What the rooms promise each other: `Backbone`, `SegmentationModel`, `EncoderDecoder`, `Preprocessing`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmentarium.layers.fusion import fold_batch_norm, reparameterize
from segmentarium.layers.resize import resize
from segmentarium.palette import default_palette
from segmentarium.preprocessing import Preprocessing as Preprocessing

IGNORE_INDEX = 255


class Backbone(nn.Module):
    """An image to a feature pyramid, finest first.

    channels    of each feature map
    strides     of each feature map against the image
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, C, H, W), any H and W of 32 or more -> [(B, channels[i], ceil(H / strides[i]), ...), ...]"""
        raise NotImplementedError


class SegmentationModel(nn.Module):
    """Whatever gives a class to every pixel.

        model(image)                     (B, C, H, W) -> (B, K, H, W) logits: what is exported, compiled and timed
        model.forward_train(image)       all that the paper supervises, by name, each at its own resolution
        model.criterion(outputs, target) the paper's own objective: weighted losses, by the same names
        model.deploy()                   a copy for inference: same outputs, less work

    A subclass lists in `training_only` the submodules that `forward` never uses, and calls `set_objective`.
    """

    training_only: ClassVar[tuple[str, ...]] = ()
    align_corners: bool = False  # how logits are brought to the image's and the target's size
    registered_name: str = ""
    given_arguments: dict[str, Any]

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(
                f"num_classes is {num_classes}; give the number of classes, 1 or more (1: one sigmoid logit)"
            )
        if in_channels < 1:
            raise ValueError(f"in_channels is {in_channels}; give the number of input channels, 1 or more")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.given_arguments = {}
        self.classes: tuple[str, ...] = tuple(f"class {i}" for i in range(max(num_classes, 2)))
        self.palette: tuple[tuple[int, int, int], ...] = default_palette(len(self.classes))
        self.preprocessing = Preprocessing().for_channels(in_channels)
        self.losses = nn.ModuleDict()
        self.loss_weights: dict[str, float] = {}

    def forward(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.forward(image)}

    def set_objective(self, objective: Mapping[str, tuple[float, nn.Module]]) -> None:
        """Output name -> (weight, loss).  A loss sees logits at the target's size, unless it has `native_size = True`."""
        self.losses = nn.ModuleDict({name: loss for name, (_, loss) in objective.items()})
        self.loss_weights = {name: weight for name, (weight, _) in objective.items()}

    def set_class_weights(self, weights: Tensor | None) -> None:
        """(K,) weights for every loss of the objective that takes class weights, or None; moved to the model's device.

        A loss whose output has other channels than the classes (a boundary head) says `classwise = False` and is left alone.
        """
        if weights is not None:
            weights = torch.as_tensor(weights, dtype=torch.float32)
            labels = max(self.num_classes, 2)
            if weights.shape != (labels,):
                raise ValueError(
                    f"class weights have shape {tuple(weights.shape)}; give ({labels},), one for each of {labels} labels"
                )
            weights = weights.to(next(self.parameters(), weights).device)
        takers: list[Any] = [loss for loss in self.losses.modules() if hasattr(loss, "class_weight")]
        for loss in takers:
            if getattr(loss, "classwise", True):
                loss.class_weight = weights

    def criterion(self, outputs: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """outputs of `forward_train` and target (B, H, W) int64, 255 = ignore -> name: weighted scalar loss."""
        losses = {}
        for name, loss in self.losses.items():
            output = outputs[name]
            if not getattr(loss, "native_size", False):
                output = resize(output.float(), target.shape[-2:], align_corners=self.align_corners)
            losses[name] = self.loss_weights[name] * loss(output, target)
        return losses

    @torch.inference_mode(False)  # so that the copy's tensors are ordinary ones wherever it is made
    def deploy(self) -> SegmentationModel:
        """A copy for inference: training-only branches gone, blocks re-parameterised, batch norm folded into the convolutions."""
        model = copy.deepcopy(self).eval()
        for name in (*self.training_only, "losses"):
            if hasattr(model, name):
                delattr(model, name)
        model.loss_weights = {}
        reparameterize(model)
        weight = next(model.parameters())
        fold_batch_norm(model, torch.zeros(1, self.in_channels, 64, 64, device=weight.device, dtype=weight.dtype))
        return model.requires_grad_(False)


class EncoderDecoder(SegmentationModel):
    """A backbone with a decoder, and auxiliary decoders that only training uses.

    decoder(features) -> logits at the stride of its choice; `auxiliary` maps an output's name to such a decoder.
    """

    training_only: ClassVar[tuple[str, ...]] = ("auxiliary",)

    def __init__(
        self,
        *,
        backbone: nn.Module,
        decoder: nn.Module,
        auxiliary: Mapping[str, nn.Module] | None = None,
        num_classes: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.backbone = backbone
        self.decoder = decoder
        self.auxiliary = nn.ModuleDict(dict(auxiliary or {}))

    def forward(self, image: Tensor) -> Tensor:
        logits = self.decoder(self.backbone(image))
        return resize(logits, image.shape[-2:], align_corners=self.align_corners)

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        features = self.backbone(image)
        outputs = {"logits": self.decoder(features)}
        return outputs | {name: head(features) for name, head in self.auxiliary.items()}


def pick(features: Sequence[Tensor], strides: Iterable[int], stride: int) -> Tensor:
    """The feature map of that stride; where several share it (a dilated backbone), the deepest."""
    found = [feature for feature, s in zip(features, strides, strict=True) if s == stride]
    if not found:
        raise ValueError(f"the backbone has no feature of stride {stride}; it has {tuple(strides)}")
    return found[-1]
