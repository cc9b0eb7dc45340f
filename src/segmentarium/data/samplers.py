"""An endless, seeded stream of samples that continues exactly where it stopped.

What the n-th training sample is, and how it is augmented, depends on the seed and on n alone: not on the number of
workers, of processes, or of restarts. The sampler yields keys (n, index); `TrainingStream` seeds the random
generators from (seed, n) while it builds that sample, and puts them back afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from segmentarium.data.base import PictureDataset, Sample, Transform, apply_transform
from segmentarium.labels import IGNORE_INDEX

Key = tuple[int, int]
Order = Callable[[np.random.Generator], np.ndarray]


class InfiniteSampler(Sampler[Key]):
    """Keys (counter, index) without end: one random permutation of the data set after another.

    counter: number of the sample since the start of training, over all processes.
    index: which item of the data set it is, 0..length-1.

    With `world_size` processes, process `rank` draws every world_size-th key. To continue a run, give as
    `start_index` how many samples all processes together have consumed (steps x effective batch): the sampler cannot
    know it, because loaders draw ahead of training.

    order: gives a pass its permutation (length,); None: any is as likely. Of shards it keeps near what lies near.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        start_index: int = 0,
        rank: int = 0,
        world_size: int = 1,
        order: Order | None = None,
    ) -> None:
        if length < 1:
            raise ValueError(f"length is {length}; the data set has no samples to draw from")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} processes; give 0 <= rank < world_size")
        if start_index < 0:
            raise ValueError(f"start_index is {start_index}; give the number of samples consumed so far, 0 or more")
        self.length, self.seed, self.start_index = length, seed, start_index
        self.rank, self.world_size = rank, world_size
        self.order = order or (lambda random: random.permutation(length))

    def __iter__(self) -> Iterator[Key]:
        counter = self.start_index + self.rank
        epoch, order = -1, np.empty(0, np.int64)
        while True:
            if counter // self.length != epoch:
                epoch = counter // self.length
                order = self.permutation(epoch)
            yield counter, int(order[counter % self.length])
            counter += self.world_size

    def permutation(self, epoch: int) -> np.ndarray:
        """The order (length,) in which pass number `epoch` visits the data set."""
        return self.order(np.random.default_rng((self.seed, epoch)))


class TrainingStream(Dataset[Sample]):
    """A data set under random augmentation, asked by keys (counter, index) of an `InfiniteSampler`.

    The sample of a key is always the same: torch, numpy and random are seeded from (seed, counter) around the
    transform. `dataset.transform` is not used. The counter is returned as `sample["counter"]`.

    mixing: probability that a sample is mixed with a second random one; the transform must then give one size.
    mix: how, of (first, second): `mix_classes` for masks, `classification.MixPictures` for pictures with a class.
    joining: probability that a sample becomes one picture with three random others before it is transformed.
    join: how, of the four: a `mosaic.Mosaic`.
    """

    def __init__(
        self,
        dataset: PictureDataset,
        transform: Transform | None,
        seed: int = 0,
        mixing: float = 0.0,
        mix: Callable[[Sample, Sample], Sample] | None = None,
        joining: float = 0.0,
        join: Callable[[Sequence[Sample]], Sample] | None = None,
    ) -> None:
        for what, probability in (("mixing", mixing), ("joining", joining)):
            if not 0 <= probability <= 1:
                raise ValueError(f"the probability of {what} is {probability}; give 0 (never) to 1")
        if joining and join is None:
            raise ValueError(f"the probability of joining is {joining}, and nothing says how; give join=Mosaic(...)")
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.mixing, self.mix = mixing, mix or mix_classes
        self.joining, self.join = joining, join

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample:
        counter, index = key
        sample = self.dataset.sample(index)
        with seeded(self.seed, counter):
            if self.join is not None and torch.rand(()).item() < self.joining:
                sample = self.join([sample, *(self._other() for _ in range(3))])
            sample = apply_transform(self.transform, sample)
            if self.mixing and torch.rand(()).item() < self.mixing:
                sample = self.mix(sample, apply_transform(self.transform, self._other()))
        sample["counter"] = counter
        return sample

    def _other(self) -> Sample:
        return self.dataset.sample(int(torch.randint(len(self.dataset), ()).item()))


def mix_classes(below: Sample, above: Sample) -> Sample:
    """Lay the pixels of a random half (rounded up) of the classes of `above` over `below`, with their labels.

    Void pixels (255) are never laid over. The same sizes are needed: image (3, H, W), mask (H, W).
    Source: Olsson et al., ClassMix, https://arxiv.org/abs/2007.07936, here with true labels.
    """
    if below["mask"].shape != above["mask"].shape:
        raise ValueError(
            f"{below['name']} and {above['name']} have crops of {tuple(below['mask'].shape)} and "
            f"{tuple(above['mask'].shape)} pixels; mixing classes needs one crop size"
        )
    labels = above["mask"].as_subclass(torch.Tensor)
    present = torch.bincount(labels.reshape(-1).long(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX].nonzero()[:, 0]
    chosen = torch.zeros(IGNORE_INDEX + 1, dtype=torch.bool)
    chosen[present[torch.randperm(len(present))[: (len(present) + 1) // 2]]] = True
    pasted = chosen[labels.long()]
    image = torch.where(pasted, above["image"].as_subclass(torch.Tensor), below["image"].as_subclass(torch.Tensor))
    mask = torch.where(pasted, labels, below["mask"].as_subclass(torch.Tensor))
    mixed = {**below, "image": type(below["image"])(image), "mask": type(below["mask"])(mask)}
    mixed["name"] = f"{below['name']} under {above['name']}"
    return mixed


@contextmanager
def seeded(seed: int, counter: int) -> Iterator[None]:
    """Seed the CPU generators of torch, numpy and random from two integers, and restore their states at the end."""
    words = np.random.SeedSequence((seed, counter)).generate_state(3, np.uint32)
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(int(words[0]))  # torch.manual_seed would also reach for the GPUs
    np.random.seed(int(words[1]))
    random.seed(int(words[2]))
    try:
        yield
    finally:
        torch.set_rng_state(saved[0])
        np.random.set_state(saved[1])
        random.setstate(saved[2])
