"""What backbones share that are one row of blocks over the tokens of an image, all of one stride."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.contracts import Backbone


class PlainBackbone(Backbone):
    """Blocks over (B, P + h·w, D) tokens, prefix tokens first.  Feature i is what block i gives, as a map of the patches; the
    last block's goes through the final norm, which what the classifier sees passes, too.

    A subclass gives `embed_patches`, sets `blocks` and `norm`, and calls `describe_blocks` last.

    prefix_tokens   P, such as the class token
    norm_last       whether the last block's feature passes it
    """

    blocks: nn.ModuleList
    norm: nn.Module
    prefix_tokens: int = 1
    norm_last: bool = True

    def embed_patches(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, C, H, W) -> (B, P + h·w, D) tokens with their positions, row by row, and (h, w)"""
        raise NotImplementedError

    def describe_blocks(
        self, channels: int, stride: int, out_indices: Sequence[int] | None, head: nn.Module | None = None
    ) -> None:
        """out_indices: of the blocks; None: four in equal steps, the last one among them"""
        depth = len(self.blocks)
        if out_indices is None:
            out_indices = quarters(depth)
        strides = [stride * 2 // self.size_behind(i, (2, 2))[0] for i in range(depth)]
        self.describe([channels] * depth, strides, out_indices, head=head)
        self.num_layers = depth + 1

    def require_size(self, image: Tensor) -> None:
        """ValueError for an image of another size than the only one that the network takes."""
        if self.fixed_size is not None and tuple(image.shape[-2:]) != self.fixed_size:
            height, width = self.fixed_size
            raise ValueError(
                f"the image is {image.shape[-2]}×{image.shape[-1]}; this {type(self).__name__} takes {height}×{width} only, "
                "because its layers over the patches have a weight for each: resize the image, or build it with image_size"
            )

    def size_behind(self, index: int, size: tuple[int, int]) -> tuple[int, int]:
        """Of the grid of tokens behind block `index`, where the patches' is (h, w) = `size`."""
        return size

    def run_block(self, index: int, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Block `index`, whose tokens are of a grid of the patches' `size`."""
        return self.blocks[index](tokens)

    def run_blocks(self, tokens: Tensor, size: tuple[int, int], indices: Sequence[int]) -> list[Tensor]:
        """The tokens behind each of the blocks `indices`, and before the final norm; no block behind the last is run."""
        taps = []
        for index in range(indices[-1] + 1):
            tokens = self.run_block(index, tokens, size)
            if index in indices:
                taps.append(tokens)
        return taps

    def tap(self, tokens: Tensor, size: tuple[int, int], indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """What `embed_patches` gives -> of each of the blocks `indices` the map (B, D, h, w) and the prefix tokens (B, P, D)"""
        depth, prefix = len(self.blocks), self.prefix_tokens
        if not indices or any(index not in range(depth) for index in indices) or list(indices) != sorted(set(indices)):
            raise ValueError(f"the blocks to tap are {tuple(indices)}; give some of 0 to {depth - 1}, in their order")
        taps = self.run_blocks(tokens, size, indices)
        if self.norm_last and indices[-1] == depth - 1:
            taps[-1] = self.norm(taps[-1])
        return [
            (x[:, prefix:].transpose(1, 2).unflatten(2, self.size_behind(index, size)), x[:, :prefix])
            for index, x in zip(indices, taps, strict=True)
        ]

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> the maps of all blocks up to the deepest that is wanted"""
        return [grid for grid, _ in self.forward_tokens(image, range(self.out_indices[-1] + 1))]

    def forward(self, image: Tensor) -> list[Tensor]:
        return [grid for grid, _ in self.forward_tokens(image, self.out_indices)]

    def forward_tokens(self, image: Tensor, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        return self.tap(*self.embed_patches(image), indices)

    def embed(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D): the class token behind all blocks"""
        tokens, size = self.embed_patches(image)
        (last,) = self.run_blocks(tokens, size, (len(self.blocks) - 1,))
        return self.norm(last[:, 0])

    def layer_of(self, name: str) -> int:
        """A layer is a block; the final norm stands with the last."""
        part, _, rest = name.partition(".")
        if part == "classifier":
            return self.num_layers
        if part == "norm":
            return self.num_layers - 1
        return int(rest.partition(".")[0]) + 1 if part == "blocks" else 0


def quarters(depth: int) -> list[int]:
    """Four of `depth` blocks in equal steps, the last one among them; fewer where there are fewer."""
    return sorted({max(depth * (i + 1) // 4 - 1, 0) for i in range(4)})


def two(size: int | Sequence[int]) -> tuple[int, int]:
    """A height and width, or one number for both."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def grid_of(image_size: int | Sequence[int], patch: int) -> tuple[int, int]:
    """(height, width) of the patches; ValueError unless they are whole."""
    height, width = two(image_size)
    if height % patch or width % patch or min(height, width) < patch:
        raise ValueError(f"image_size is {height}×{width}; give multiples of the patch's side, {patch}")
    return height // patch, width // patch
