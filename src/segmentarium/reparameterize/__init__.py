"""Networks that train with many branches and run with one: `with_dbb(model)`, and the transforms that fold branches.

    segmentarium.with_dbb(model)      Diverse Branch Blocks in place of the k×k convolutions, in place
    …                                 train it as any other
    model.deploy()                    one k×k convolution for each block again

What folds a block is its own `reparameterize()`, which `Model.deploy()` calls; `layers.fusion.reparameterize` does the same
for any other `nn.Module`, in place.
"""

from __future__ import annotations

from segmentarium.reparameterize.diverse_branch import Blocks, DiverseBranch, with_dbb
from segmentarium.reparameterize.transforms import (
    add_branches,
    average_kernel,
    concatenate,
    fuse_norm,
    merge_pointwise,
    pad_kernel,
)

__all__ = [
    "Blocks",
    "DiverseBranch",
    "add_branches",
    "average_kernel",
    "concatenate",
    "fuse_norm",
    "merge_pointwise",
    "pad_kernel",
    "with_dbb",
]
