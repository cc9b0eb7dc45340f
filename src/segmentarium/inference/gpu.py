"""What NVIDIA's GPUs add to the engines: mixed precision, and passes replayed as one graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST_GRAPHS = 8  # sizes of inputs that are kept captured: each holds the memory of a forward pass
WARM_UP = 3  # calls before the capture, in which libraries choose their kernels


def in_half(network: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The network under autocast to float16: convolutions and products in half precision, sums and norms in full.

    ValueError on a processor, whose half precision is bf16.
    """
    if device.type != "cuda":
        raise ValueError(f"precision fp16 is for GPUs, and the device is {device}; give bf16 or fp32")

    def run(*maps: Tensor) -> Any:
        with torch.autocast("cuda", torch.float16):
            return network(*maps)

    return run


class Graphed:
    """A forward pass that is captured once for each size of its inputs, and replayed as one CUDA graph.

    A small network's kernels take less time than Python takes to launch them; a graph is launched once.  The network must not
    ask its tensors anything on the way; one that does fails at the first call, with what CUDA says.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._captured: OrderedDict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = OrderedDict()

    def __call__(self, *maps: Tensor) -> Any:
        key = tuple((tuple(x.shape), x.dtype) for x in maps)
        if key not in self._captured:
            if len(self._captured) == MOST_GRAPHS:
                self._captured.popitem(last=False)
            self._captured[key] = self._capture(maps)
        self._captured.move_to_end(key)
        graph, given, found = self._captured[key]
        for slot, x in zip(given, maps, strict=True):
            slot.copy_(x)
        graph.replay()
        # copies: the next call writes where these lie
        return found.clone() if isinstance(found, Tensor) else tuple(one.clone() for one in found)

    def _capture(self, maps: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any]:
        given = [x.clone(memory_format=torch.preserve_format) for x in maps]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._run(*given)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = self._run(*given)
        return graph, given, found
