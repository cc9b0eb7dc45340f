"""MaskFormer and Mask2Former here and in transformers, side by side in one run: a pass, and a training step.

    python -m benchmarks.masks [--only mask2former] [--size 512x512] [--threads 2] [--rounds 5]
        [--engines "torch bf16,onnxruntime,openvino"] [--no-train]

Both have transformers' standard form on Swin-T, the same random weights, which go through the key table, and the same photograph;
both give class and mask logits.  They take turns, round by round; a ratio is the median over the rounds of the peer's time over
ours: above 1, ours is faster.  A training step is a pass, the loss of ten boxes a picture after every layer of the transformer
decoder, as published, which transformers' MaskFormer leaves out by default, and its gradients, on two pictures of half the side.
`moved` is the greatest difference of the logits over the greatest logit: where the attention is masked, random weights have ties
that rounding turns.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peer_networks import Peer, counterpart, photo
from segmentarium.benchmarking import machine_facts
from segmentarium.benchmarking.machine import describe
from segmentarium.benchmarking.timing import alternate, ratio
from segmentarium.cli.export import size
from segmentarium.contracts import MaskModel, MaskOutputs
from segmentarium.inference.engines import build_engine
from segmentarium.losses.segments import Segments
from segmentarium.training.linear import quicken

CLASSES = 150
LABELS: dict[str, Any] = {"num_labels": CLASSES}


def mask2former() -> nn.Module:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**LABELS))


def maskformer() -> nn.Module:
    from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation

    return MaskFormerForInstanceSegmentation(MaskFormerConfig(**LABELS))


PEERS = {"maskformer": maskformer, "mask2former": mask2former}


def both_logits(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """What transformers' network gives, under our names."""
    found = network(pixel_values=image)
    return found.class_queries_logits, found.masks_queries_logits


def measure(name: str, options: argparse.Namespace) -> None:
    """Prints a line for each form of ours."""
    torch.manual_seed(0)
    theirs = PEERS[name]().eval()
    ours, same = counterpart(Peer(name, PEERS[name], f"{name}_swin_tiny", options.size), theirs)
    if not same or not isinstance(ours, MaskModel):
        raise RuntimeError(f"no key table took the weights of transformers' {name}")
    image = photo(options.size)
    runs: dict[str, Callable[[], Any]] = {
        "peer": partial(both_logits, theirs, image),
        "eager": partial(MaskOutputs(ours), image),
        "deploy": partial(build_engine(MaskOutputs(ours), "torch", device="cpu"), image),
    }
    for form in filter(None, options.engines.split(",")):
        engine, _, precision = form.partition(" ")
        runs[form] = partial(
            build_engine(MaskOutputs(ours), engine, precision=precision or "fp32", device="cpu"), image
        )
    with torch.inference_mode():
        reference = runs["peer"]()
        seconds = alternate(runs, rounds=options.rounds)
        for form, run in runs.items():
            moved = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(run(), reference, strict=True))
            line(name, form, seconds[form], seconds["peer"], f"moved {moved:.1e}")
    if options.train:
        steps = training_steps(theirs, ours, tuple(side // 2 for side in options.size))
        seconds = alternate(steps, rounds=max(1, options.rounds // 2))
        for form in steps:
            line(name, form, seconds[form], seconds["peer, a training step"], "")


def line(name: str, form: str, ours: list[float], theirs: list[float], more: str) -> None:
    print(
        f"{name:12} {form:22} {statistics.median(ours) * 1e3:8.0f} ms  {ratio(theirs, ours):5.2f}x  {more}", flush=True
    )


def training_steps(theirs: nn.Module, ours: MaskModel, sides: tuple[int, ...]) -> dict[str, Callable[[], None]]:
    images = photo((sides[0], sides[1]), 2)
    masks = torch.zeros(10, *sides, dtype=torch.bool)
    for i, mask in enumerate(masks):
        top, left = (i // 5) * sides[0] // 2, (i % 5) * sides[1] // 5
        mask[top : top + sides[0] // 3, left : left + sides[1] // 6] = True
    labels = torch.arange(10) % CLASSES
    targets = [Segments(labels, masks)] * 2

    def step(loss: Callable[[], Tensor], network: nn.Module) -> None:
        network.train().zero_grad()
        loss().backward()

    def loss_of_theirs() -> Tensor:
        return theirs(
            pixel_values=images, mask_labels=[masks.float()] * 2, class_labels=[labels] * 2, output_hidden_states=True
        ).loss.sum()

    def loss_of_ours() -> Tensor:
        losses = ours.criterion(ours.forward_train(images), {"segments": targets})
        return torch.stack(list(losses.values())).sum()

    quicken(ours)  # as `segmentarium train` does
    theirs.config.use_auxiliary_loss = True  # type: ignore[union-attr]
    for network in (theirs, ours):
        network.requires_grad_(True)
    return {
        "peer, a training step": partial(step, loss_of_theirs, theirs),
        "a training step": partial(step, loss_of_ours, ours),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(PEERS), help="default: both")
    parser.add_argument("--size", type=size, default=(512, 512), metavar="HxW")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--engines",
        default="",
        metavar="A,B",
        help='of "torch bf16", onnxruntime, openvino, "openvino bf16"; default: none',
    )
    parser.add_argument("--train", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe(machine_facts()))
    for name in [options.only] if options.only else PEERS:
        measure(name, options)


if __name__ == "__main__":
    main()
