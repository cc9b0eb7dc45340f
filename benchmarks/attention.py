"""The attention decoders beside their papers' algebra written plainly, on the same features: how long, and in how much memory.

    python -m benchmarks.attention [CASE …] [--size 64x128] [--channels 2048] [--threads 2] [--rounds 2] [--training]

Both are one decoder with the same weights; in the plain form the blocks of the attention make all that the definition speaks of,
as the public code does: scores of all pairs of places, residuals to all codewords, copies of rows and columns, the concatenated
map.  Where no share of the memory is asked for, the public code holds no map of all pairs either, and the convolutions take
the most.  (Of the non-local block's concatenation the public code makes two vectors for each pair, which at this size are 137 GB;
the plain form here makes one number.)

Time is the median of the rounds, in which the two take turns.  Memory is the peak of a process of its own, less what it held
before the first forward, weights and features among that; `--training`: of a forward and its gradients instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.stored import Given
from segmentarium import create_model
from segmentarium.benchmarking import alternate
from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.benchmarking.memory import peak_mb, reset_peak, resident_mb
from segmentarium.benchmarking.timing import ratio
from segmentarium.layers.resize import resize
from segmentarium.semantic.ann import AsymmetricNonLocal
from segmentarium.semantic.ccnet import CrissCrossAttention
from segmentarium.semantic.danet import ChannelAttention, PositionAttention
from segmentarium.semantic.dnlnet import DisentangledNonLocal
from segmentarium.semantic.encnet import Encoding
from segmentarium.semantic.non_local import FORMS, NonLocal
from segmentarium.semantic.ocrnet import ObjectAttention
from segmentarium.semantic.psanet import PointwiseAttention

TOLERANCE = 1e-4  # relative error
SAME = 1.1  # share of the plain form's memory where that is small: allocators do not repeat themselves exactly


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, HW, C)"""
    return x.flatten(2).transpose(1, 2)


def as_map(x: Tensor, like: Tensor) -> Tensor:
    """(B, HW, C) -> (B, C, H, W)"""
    return x.transpose(1, 2).unflatten(2, like.shape[2:])


def position(block: Any, x: Tensor) -> Tensor:
    query, key, value = (layer(tokens(x)) for layer in (block.query, block.key, block.value))
    return x + block.gamma * as_map((query @ key.transpose(1, 2)).softmax(2) @ value, x)


def channel(block: Any, x: Tensor) -> Tensor:
    rows = x.flatten(2)
    products = rows @ rows.transpose(1, 2)
    weights = (products.amax(2, keepdim=True) - products).softmax(2)
    return x + block.gamma * (weights @ rows).view_as(x)


def criss_cross(block: Any, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    query, key, value = (as_map(layer(tokens(x)), x) for layer in (block.query, block.key, block.value))

    def columns(y: Tensor) -> Tensor:
        return y.permute(0, 3, 1, 2).flatten(0, 1).contiguous()  # (BW, C, H)

    def rows(y: Tensor) -> Tensor:
        return y.permute(0, 2, 1, 3).flatten(0, 1).contiguous()  # (BH, C, W)

    own = torch.full((height,), -torch.inf, device=x.device).diag()
    of_columns = (columns(query).transpose(1, 2) @ columns(key) + own).unflatten(0, (-1, width)).transpose(1, 2)
    of_rows = (rows(query).transpose(1, 2) @ rows(key)).unflatten(0, (-1, height))
    weights = torch.cat([of_columns, of_rows], 3).softmax(3)  # (B, H, W, H + W)
    of_columns = weights[..., :height].transpose(1, 2).flatten(0, 1).contiguous()
    of_rows = weights[..., height:].flatten(0, 1).contiguous()
    seen = (columns(value) @ of_columns.transpose(1, 2)).unflatten(0, (-1, width)).permute(0, 2, 3, 1)
    seen = seen + (rows(value) @ of_rows.transpose(1, 2)).unflatten(0, (-1, height)).permute(0, 2, 1, 3)
    return x + block.gamma * seen


def crosses_of_all(block: Any, x: Tensor) -> Tensor:
    """The definition: of the scores of all pairs those that are in no common row or column do not count."""
    height, width = x.shape[2:]
    query, key, value = (layer(tokens(x)) for layer in (block.query, block.key, block.value))
    place = torch.arange(height * width, device=x.device)
    row, column = place // width, place % width
    apart = (row[:, None] != row) & (column[:, None] != column)
    weights = (query @ key.transpose(1, 2)).masked_fill(apart, -torch.inf).softmax(2)
    return x + block.gamma * as_map(weights @ value, x)


def pointwise(block: Any, x: Tensor, size: Sequence[int], aligned: int) -> Tensor:
    x = resize(block.reduce(x), size, align_corners=bool(aligned))
    mask = block.mask(block.hidden(x)).unflatten(1, block.mask_size)
    (tall, wide), (height, width) = block.mask_size, x.shape[2:]
    mid_y, mid_x = (tall - 1) // 2, (wide - 1) // 2
    scores = x.new_zeros(len(x), height, width, height, width)  # for whom, of who predicts
    for h in range(height):
        for w in range(width):
            top, left = max(0, h - mid_y), max(0, w - mid_x)
            below, right = min(height, h - mid_y + tall), min(width, w - mid_x + wide)
            steps = mask[:, top - h + mid_y : below - h + mid_y, left - w + mid_x : right - w + mid_x, h, w]
            scores[:, top:below, left:right, h, w] = steps
    del mask
    pairs = scores.flatten(3).flatten(1, 2)
    weights = (pairs.transpose(1, 2) if block.distribute else pairs).softmax(1)  # over whom is asked
    return (x.flatten(2) @ weights).view_as(x)


def non_local(block: Any, x: Tensor) -> Tensor:
    places = tokens(x)
    query, key = (layer(places) if layer else places for layer in (block.query, block.key))
    value = block.value(places)
    if block.form == "concatenation":
        left, right = block.pair.weight.chunk(2, 1)
        weights = (F.linear(query, left) + F.linear(key, right).transpose(1, 2)).relu() / key.shape[1]
    else:
        weights = query @ key.transpose(1, 2)
        weights = weights / key.shape[1] if block.form == "dot_product" else (block.scale * weights).softmax(2)
    return x + block.project(as_map(weights @ value, x))


def disentangled(block: Any, x: Tensor) -> Tensor:
    places = tokens(x)
    query, key, value = (layer(places) for layer in (block.query, block.key, block.value))
    query, key = (y - y.mean(1, keepdim=True) for y in (query, key))
    pairs = (block.scale * (query @ key.transpose(1, 2))).softmax(2) @ value
    shown = block.unary(places).softmax(1).transpose(1, 2) @ value
    return x + block.project(as_map(pairs + shown, x))


def asymmetric(block: Any, low: Tensor, high: Tensor) -> Tensor:
    keys = block.key(low)
    queries = keys if block.query is None else block.query(high)
    places, values = (
        torch.cat([F.adaptive_avg_pool2d(y, side).flatten(2) for side in block.bins], 2)
        for y in (keys, block.value(low))
    )
    weights = (places.shape[1] ** -0.5 * (tokens(queries) @ places)).softmax(2)
    answer = block.project(as_map(weights @ values.transpose(1, 2), high))
    weight = torch.cat([block.fuse_answer.weight, block.fuse_feature.weight], 1)
    return block.act(block.norm(F.conv2d(torch.cat([answer, high], 1), weight, block.fuse_feature.bias)))


def objects(block: Any, pixels: Tensor, regions: Tensor) -> Tensor:
    query, key, value = block.query(pixels), block.key(regions).squeeze(3), block.value(regions).squeeze(3)
    share = (query.shape[1] ** -0.5 * (tokens(query) @ key)).softmax(2)
    return block.act(block.norm(block.widen(as_map(share @ value.transpose(1, 2), pixels))))


def encoding(layer: Any, x: Tensor) -> Tensor:
    residuals = x[:, :, None] - layer.codewords  # (B, N, K, C)
    weights = (layer.scale * residuals.square().sum(3)).softmax(2)
    return (weights[..., None] * residuals).sum(1)


@dataclass(frozen=True)
class Case:
    """A registered decoder, the plain forward of each kind of block in it, and which share of its memory ours may take."""

    model: str
    plain: Mapping[type[nn.Module], Callable[..., Tensor]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    share: float = 0.5

    def decoder(self, channels: int, form: str) -> nn.Module:
        """form   "ours" or "plain"; the weights are the same"""
        torch.manual_seed(0)
        given = Given([channels // 8, channels // 4, channels // 2, channels], [4, 8, 8, 8])
        model: Any = create_model(self.model, backbone=given, num_classes=19, auxiliary=False, **self.arguments)
        decoder = model.decoder.eval().to(memory_format=torch.channels_last)
        for parameter in decoder.parameters():
            if not parameter.any():  # what starts at zero would hide the attention
                nn.init.uniform_(parameter, 0.5, 1.5)
        for module in decoder.modules() if form == "plain" else ():
            if type(module) in self.plain:
                module.forward = partial(self.plain[type(module)], module)
        return decoder


CASES = {
    "danet": Case("danet_resnet50", {PositionAttention: position, ChannelAttention: channel}),
    "ccnet of all pairs": Case("ccnet_resnet50", {CrissCrossAttention: crosses_of_all}),
    "ccnet": Case("ccnet_resnet50", {CrissCrossAttention: criss_cross}, share=SAME),
    "psanet": Case("psanet_resnet50", {PointwiseAttention: pointwise}, share=SAME),
    **{f"nonlocal {form}": Case("nonlocal", {NonLocal: non_local}, {"form": form}) for form in FORMS},
    "dnlnet": Case("dnlnet", {DisentangledNonLocal: disentangled}),
    "ann": Case("ann", {AsymmetricNonLocal: asymmetric}),
    "ocrnet": Case("ocrnet_resnet50", {ObjectAttention: objects}, share=SAME),
    "encnet": Case("encnet_resnet50", {Encoding: encoding}),
}


def features(channels: int, size: Sequence[int]) -> list[Tensor]:
    torch.manual_seed(1)
    made = [torch.randn(1, channels // 8, 2 * size[0], 2 * size[1])]
    made += [torch.randn(1, channels // part, *size) for part in (4, 2, 1)]
    return [x.contiguous(memory_format=torch.channels_last) for x in made]


def call(decoder: nn.Module, given: Sequence[Tensor], training: bool) -> Tensor:
    with torch.set_grad_enabled(training):
        logits = decoder(given)
        if training:
            logits.square().mean().backward()
    return logits


def peak(name: str, form: str, options: argparse.Namespace) -> float:
    """MB, in a process of its own."""
    words = ["--size", options.size, "--channels", str(options.channels), "--threads", str(options.threads)]
    words += ["--training"] * options.training
    command = [sys.executable, "-m", __spec__.name, name, "--alone", form, *words]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=f"of {', '.join(map(repr, CASES))}")
    parser.add_argument("--size", default="64x128", help="of the deepest feature (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=2048, help="of it (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="0: memory and equality alone")
    parser.add_argument("--training", action="store_true", help="gradients, too")
    parser.add_argument("--alone", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if unknown := set(options.case) - set(CASES):
        parser.error(f"no case is called {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    given = features(options.channels, [int(side) for side in options.size.split("x")])
    if options.alone:
        decoder = CASES[options.case[0]].decoder(options.channels, options.alone)
        reset_peak()
        before = resident_mb() or 0.0
        call(decoder, given, options.training)
        print(json.dumps((peak_mb() or 0.0) - before))
        return 0
    print(describe(machine_facts()), flush=True)
    print("| decoder | plain (ms) | ours (ms) | faster | plain (MB) | ours (MB) | share | relative error |")
    print("|---|---|---|---|---|---|---|---|")
    missed = []
    for name in options.case or CASES:
        pair = {form: CASES[name].decoder(options.channels, form) for form in ("plain", "ours")}
        calls = {form: partial(call, decoder, given, options.training) for form, decoder in pair.items()}
        plain, ours = (run().detach() for run in calls.values())
        error = float((ours - plain).abs().max() / plain.abs().max())
        times = alternate(calls, warmup=0, rounds=options.rounds) if options.rounds else {}
        cells = [f"{1e3 * statistics.median(seconds):.0f}" for seconds in times.values()] or ["", ""]
        cells.append(f"{ratio(times['plain'], times['ours']):.2f}" if times else "")
        plain_mb, ours_mb = (peak(name, form, options) for form in pair)
        cells += [f"{plain_mb:.0f}", f"{ours_mb:.0f}", f"{ours_mb / plain_mb:.2f}", f"{error:.1e}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if error > TOLERANCE or ours_mb > CASES[name].share * plain_mb:
            missed.append(name)
    print(f"more memory than asked for, or an error of more than {TOLERANCE:g}: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
