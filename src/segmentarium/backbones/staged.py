"""What backbones share whose stages are an embedding, blocks and a norm each: MiT and MSCAN."""

from __future__ import annotations

from collections.abc import Sequence

from segmentarium.contracts import Backbone


class StagedBackbone(Backbone):
    """`stages`, each with an `embedding`, `blocks` and a `norm`, at 1/4, 1/8, 1/16 and 1/32."""

    def describe_stages(self, channels: Sequence[int], depths: Sequence[int], out_indices: Sequence[int]) -> None:
        """channels and blocks of each stage; called when the layers stand"""
        self.describe(channels, (4, 8, 16, 32), out_indices)
        self._depths = tuple(depths)
        self.num_layers = sum(depths) + 1

    def layer_of(self, name: str) -> int:
        """A layer is a block; an embedding stands below the first block of its stage, a stage's norm with its last."""
        parts = name.split(".")
        if parts[0] == "classifier":
            return self.num_layers
        stage = int(parts[1])
        below = sum(self._depths[:stage])
        if parts[2] == "embedding":
            return below
        return below + (int(parts[3]) + 1 if parts[2] == "blocks" else self._depths[stage])
