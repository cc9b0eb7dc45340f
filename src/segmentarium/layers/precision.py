"""What has to be computed in float32 whatever the autocast of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Within it products are computed in the type of their operands: for squares and their sums, of which half precision keeps
    too little."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
