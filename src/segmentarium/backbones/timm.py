"""Every timm model as a backbone: `create_backbone("timm:convnext_tiny")`.

PyTorch Image Models, Ross Wightman; https://github.com/huggingface/pytorch-image-models (Apache-2.0; the weights have licences of
their own, see timm's model cards).  timm's `features_only` interface gives the features; this file makes them keep our
contract: NCHW, finest first, of stride 4 and more, any input size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from segmentarium.contracts import Backbone

# What transformers need so that they take any size; the first that a model's constructor accepts is used.  Swin's comes
# first: until timm 1.0.30 Swin accepted the other and left it unused.
SIZE_OPTIONS: tuple[dict[str, Any], ...] = (
    {"strict_img_size": False},  # Swin and its kin
    {"dynamic_img_size": True, "dynamic_img_pad": True},  # ViT and its kin
    {},
)


class TimmBackbone(Backbone):
    """A timm model's feature maps.

    name           timm's, with its tag where one is wanted ("convnext_tiny.fb_in22k")
    pretrained     loads timm's weights from the hub
    output_stride  8, 16 or 32, for the families that timm can dilate; None: the model's own
    out_indices    timm's numbering; None: every feature of stride 4 or more (a plain transformer has one stride only:
                   its features are several depths at that stride, and decoders take the last).  Layers behind the last
                   feature asked for are left out, where timm can

    Sizes that are no multiple of the deepest stride are padded below and to the right, with zeros, and the features
    cropped back to ceil(size / stride).
    """

    def __init__(
        self,
        *,
        name: str,
        in_channels: int = 3,
        output_stride: int | None = None,
        pretrained: bool = False,
        out_indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        arguments: dict[str, Any] = {"features_only": True, "in_chans": in_channels, "pretrained": pretrained}
        if output_stride is not None:
            arguments["output_stride"] = output_stride
        if out_indices is not None:
            arguments |= {"out_indices": tuple(out_indices), "feature_cls": "getter"}
        self.body = _create(name, arguments)
        info = self.body.feature_info
        channels, strides = list(info.channels()), list(info.reduction())
        coarse = [i for i, stride in enumerate(strides) if stride >= 4 or out_indices is not None]
        if not coarse:
            raise ValueError(
                f"timm's {name!r} has features of strides {strides} only; a backbone needs one of 4 or more"
            )
        if output_stride is not None and strides[-1] > output_stride:
            raise ValueError(
                f"timm's {name!r} cannot have output stride {output_stride}; its deepest feature has {strides[-1]}"
            )
        self._kept = tuple(coarse)
        self.channels = tuple(channels[i] for i in coarse)
        self.strides = tuple(strides[i] for i in coarse)
        # features_only of the older kind leaves windowed transformers in their own channels-last layout
        self._channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self._multiple = max(strides)

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        # patches and windows must be whole, and unpadded strided convolutions (ConvNeXt) would round sizes down
        padding = [(self._multiple - size % self._multiple) % self._multiple for size in (width, height)]
        image = F.pad(image, (0, padding[0], 0, padding[1]))
        features = self.body(image)
        features = [features[i] for i in self._kept]
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        # rounded up by what ONNX divides alike: its division of negative numbers rounds towards zero
        return [
            feature[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            for feature, stride in zip(features, self.strides, strict=True)
        ]


def _create(name: str, arguments: dict[str, Any]) -> Any:
    """The timm model, built to take any size.  Unknown names and unsupported options are answered in our words."""
    import timm

    if not timm.is_model(name):
        from segmentarium.registry import did_you_mean

        near = timm.list_models(f"*{name.split('.')[0][:6]}*") or timm.list_models()
        raise KeyError(f"timm has no model {name!r}{did_you_mean(name, near)[:300]}")
    for options in SIZE_OPTIONS:
        try:
            return timm.create_model(name, **arguments, **options)
        except TypeError as error:
            if not any(option in str(error) for option in options):
                raise ValueError(f"timm cannot build {name!r} with {arguments}: {error}") from error
        except (NotImplementedError, RuntimeError, AssertionError) as error:
            raise ValueError(f"timm cannot build {name!r} with {arguments}: {error}") from error
        except AttributeError:  # a family that cannot be cut off behind its last feature
            if "feature_cls" not in arguments:
                raise
            return _create(name, {key: value for key, value in arguments.items() if key != "feature_cls"})
    raise AssertionError("the last options are none, which no constructor refuses")
