"""One convolution for several uses, each with a batch norm of its own."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segmentarium.layers.pooling import PooledBatchNorm


class SharedConv(nn.Module):
    """conv -> norm, where the convolution's weights serve several uses and the statistics belong to one of them.

    ShelfNet uses one 3×3 twice in a block; SwiftNet's pyramid shows it the image at several scales.  What is shared is
    the parameters, not the work, so `deploy` gives each use a copy with its norm folded in: more memory, less to do.
    """

    def __init__(self, conv: nn.Conv2d, uses: int) -> None:
        super().__init__()
        self.conv: nn.Conv2d | None = conv
        self.norms = nn.ModuleList(PooledBatchNorm(conv.out_channels) for _ in range(uses))
        self.folded: nn.ModuleList | None = None

    def forward(self, x: Tensor, use: int) -> Tensor:
        if self.folded is not None:
            return self.folded[use](x)
        assert self.conv is not None
        return self.norms[use](self.conv(x))

    def reparameterize(self) -> None:
        if self.conv is not None:
            norms = [norm for norm in self.norms if isinstance(norm, nn.BatchNorm2d)]
            self.folded = nn.ModuleList(fuse_conv_bn_eval(self.conv, norm) for norm in norms)
            self.conv, self.norms = None, nn.ModuleList()
