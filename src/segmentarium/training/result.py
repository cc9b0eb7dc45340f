"""What a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainingResult:
    """Where the files of a run lie, and how good its best weights are.

    best       scores of the best evaluation ("miou", "macc", "aacc" in 0..1, "iou" by class, "step"); empty: none yet
    signal     the signal that stopped the run early, or None
    """

    folder: Path
    steps: int
    best_weights: Path
    last_weights: Path
    checkpoint: Path
    best: dict[str, Any] = field(default_factory=dict)
    signal: int | None = None
