"""Workers that read ahead are gone when the reading ends, whatever ended it: else the program would wait for them at its end."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from segmentarium.training.loaders import DataError, PreparedLoader, TimedLoader, _outlive_signals


class Numbers(Dataset[int]):
    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> int:
        if index == self.bad:
            raise ValueError(f"picture {index} cannot be read")
        return index


class Here:
    def to_device(self, batch: Any) -> Any:
        return batch


def loader(bad: int | None = None) -> DataLoader[int]:
    return DataLoader(Numbers(bad), batch_size=4, num_workers=1, worker_init_fn=_outlive_signals)


def test_after_an_error() -> None:
    with pytest.raises(DataError, match=r"^picture 9 cannot be read$") as caught:
        list(TimedLoader(loader(bad=9)))
    assert caught.value.__traceback__ is not None  # its frames hold the loader
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("prepared", [False, True])
def test_after_the_first_batches(prepared: bool) -> None:
    timed = PreparedLoader(loader(), Here(), lambda batch: -batch) if prepared else TimedLoader(loader())  # type: ignore[arg-type, return-value]
    batches = iter(timed)
    assert torch.equal(next(batches), torch.arange(4) * (-1 if prepared else 1))
    assert multiprocessing.active_children()
    batches.close()
    assert not multiprocessing.active_children()
