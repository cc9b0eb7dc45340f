"""Eager layers on the processor as PyTorch's compiler would run them: through oneDNN, with what may be prepared prepared.

Eager PyTorch sends a linear layer in float32 to MKL (see `layers/onednn.py`), and a convolution to oneDNN with weights whose
layout is changed at every call, or, 1×1 and by one thread, to MKL.  Here linear layers go to oneDNN, too, a convolution's weights
are laid out once, and the activation behind a layer is done while its outputs are in registers.  The operators are those that
`torch.compile` calls for a frozen network (`torch.ops.mkldnn`); without them, or elsewhere than on x86, everything stays as it
is.  Outputs differ from the eager ones by rounding.

The network is changed for good: it is for one engine's private copy, on one device, never trained, saved or exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct, PointwiseConv2d
from segmentarium.layers.depthwise import DepthwiseConv2d, widen
from segmentarium.layers.mlp import MLP
from segmentarium.layers.onednn import NOTHING, Then, has_operators, is_worth, linear


def can_pack() -> bool:
    """Whether this PyTorch, on this processor, has the operators."""
    return has_operators("_linear_pointwise", "_convolution_pointwise", "_reorder_convolution_weight")


def pack(network: nn.Module) -> int:
    """Makes the float32 layers of `network` such, in place; returns how many layers."""
    if not can_pack():
        return 0
    done = 0
    for module in network.modules():
        kind = _packed_kind(module)
        if kind is None:
            continue
        if kind is PackedConv2d:
            module.__dict__["unpacked"] = module._parameters.pop("weight")
        module.__class__ = kind
        done += 1
    for module in network.modules():  # whose own forward alone calls these layers one after the other
        if type(module) is ConvNormAct and type(module.norm) is nn.Identity:
            _join(module, PackedConvNormAct, module.conv, module.act)
        elif type(module) is MLP:
            _join(module, PackedMLP, module.fc1, module.act)
    return done


def _packed_kind(module: nn.Module) -> type[nn.Module] | None:
    """What a layer becomes; None: it stays."""
    if type(module) is nn.Linear:
        return PackedLinear if module.weight.dtype == torch.float32 else None
    if type(module) in (nn.Conv2d, DepthwiseConv2d, PointwiseConv2d):
        assert isinstance(module, nn.Conv2d)
        zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return PackedConv2d if zeros and module.weight.dtype == torch.float32 else None
    return None


def _join(module: nn.Module, kind: type[nn.Module], layer: nn.Module, activation: nn.Module) -> None:
    """Lets `module` do both at once, unless oneDNN has no such activation or somebody listens in between."""
    then = activation_of(activation)
    heard = any(child._forward_hooks or child._forward_pre_hooks for child in module.children())
    if then is not None and isinstance(layer, PackedLinear | PackedConv2d) and not heard:
        module.__class__ = kind
        module.__dict__["then"] = then


def activation_of(module: nn.Module) -> Then | None:
    """None: oneDNN has none like it."""
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return "hardtanh", [module.min_val, module.max_val], ""
    if isinstance(module, nn.LeakyReLU):
        return "leaky_relu", [module.negative_slope], ""
    if isinstance(module, nn.GELU):
        return "gelu", [], module.approximate
    names = {nn.ReLU: "relu", nn.SiLU: "swish", nn.Hardswish: "hardswish", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
    return (names[type(module)], [], "") if type(module) in names else None


class PackedLinear(nn.Linear):
    """A linear layer that oneDNN computes."""

    def forward(self, input: Tensor) -> Tensor:
        return self.run(input) if is_worth(input, self) else super().forward(input)

    def run(self, input: Tensor, then: Then = NOTHING) -> Tensor:
        return linear(input, self.weight, self.bias, then)


class PackedConv2d(nn.Conv2d):
    """A convolution whose weights lie as oneDNN wants them for the first input's size; others work, too.

    unpacked, packed   the weights: before the first call, and after it
    """

    unpacked: Tensor | None
    packed: Tensor | None = None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """As they were, for who reads them besides: a copy, once they are packed."""
        weight = self.unpacked
        if weight is None:
            assert self.packed is not None
            weight = self.packed.to_dense()
        return weight

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4 or not input.numel():
            return super().forward(input)
        return self.run(input)

    def run(self, input: Tensor, then: Then = NOTHING) -> Tensor:
        input, padding = widen(self, input)
        form = (padding, self.stride, self.dilation, self.groups)
        # read in this order: another thread may be here for the first time, too, and takes the plain ones away last
        weight, packed = self.unpacked, self.packed
        if packed is None:
            packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *form, list(input.shape))
            self.packed = packed
            self.unpacked = None
        return torch.ops.mkldnn._convolution_pointwise(input, packed, self.bias, *form, *then)


class PackedConvNormAct(ConvNormAct):
    then: Then

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.conv, PackedConv2d)
        return self.conv.run(x, self.then) if x.numel() else super().forward(x)


class PackedMLP(MLP):
    then: Then

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.fc1, PackedLinear)
        return self.fc2(self.fc1.run(x, self.then)) if is_worth(x, self.fc1) else super().forward(x)
