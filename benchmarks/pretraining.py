"""A step of MAE's and of BEiT's pretraining here and in transformers, of the same sizes, side by side in one run.

    python -m benchmarks.pretraining [--quick] [--only mae beit] [--threads 2] [--rounds 5] [--device cpu]

A step is forward, loss, backward and AdamW; ours and theirs take turns, round by round, and a ratio is the median over the rounds
of theirs over ours: above 1, ours is faster.  MAE's is timed without a mask, too: how many times longer that step takes.  Memory
is the peak of a process of its own, less what it held before the model was built: on a GPU what PyTorch allocated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.benchmarking.memory import peak_mb, reset_peak, resident_mb
from segmentarium.benchmarking.timing import alternate, ratio
from segmentarium.registry import create_model


@dataclass(frozen=True)
class Size:
    """A ViT of `dim` channels, `depth` blocks of `heads`, and MAE's decoder; `image` is a square's side, of patches of 16."""

    dim: int
    depth: int
    heads: int
    decoder: tuple[int, int, int]
    image: int
    batch: int
    words: int = 8192


SIZES = {"quick": Size(64, 2, 2, (32, 1, 2), 64, 2, 64), "cpu": Size(384, 12, 6, (256, 4, 8), 224, 4)}
SIZES["cuda"] = Size(768, 12, 12, (512, 8, 16), 224, 64)
Step = Callable[[], None]


def step_of(model: nn.Module, loss: Callable[[], Tensor], device: str) -> Step:
    """Forward, backward, and the optimiser, which all models here share."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4, betas=(0.9, 0.95))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def ours(method: str, size: Size, device: str, mask_ratio: float) -> Step:
    vit = {"embed_dim": size.dim, "depth": size.depth, "heads": size.heads, "image_size": size.image}
    if method == "mae":
        dim, depth, heads = size.decoder
        model: Any = create_model(
            "mae",
            mask_ratio=mask_ratio,
            decoder_dim=dim,
            decoder_depth=depth,
            decoder_heads=heads,
            backbone_arguments=vit,
        )
    else:
        model = create_model("beit_mim", vocabulary=size.words, backbone_arguments=vit | {"drop_path": 0.0})
    model = model.to(device)
    batch = given(method, size, device)
    inputs = [batch[name] for name in model.inputs]

    def loss() -> Tensor:
        return torch.stack(list(model.criterion(model.forward_train(*inputs), batch).values())).sum()

    return step_of(model, loss, device)


def theirs(method: str, size: Size, device: str, mask_ratio: float) -> Step:
    import transformers

    common: dict[str, Any] = {
        "hidden_size": size.dim, "num_hidden_layers": size.depth, "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.dim, "image_size": size.image,
    }  # fmt: skip
    batch = given(method, size, device)
    if method == "mae":
        dim, depth, heads = size.decoder
        config = transformers.ViTMAEConfig(
            **common, mask_ratio=mask_ratio, norm_pix_loss=True, decoder_hidden_size=dim, decoder_num_hidden_layers=depth,
            decoder_num_attention_heads=heads, decoder_intermediate_size=4 * dim,
        )  # fmt: skip
        model: Any = transformers.ViTMAEForPreTraining(config).to(device)
        return step_of(model, lambda: model(batch["image"], noise=batch["noise"]).loss, device)
    config = transformers.BeitConfig(
        **common, vocab_size=size.words, use_shared_relative_position_bias=True, use_mask_token=True, drop_path_rate=0.0,
        use_absolute_position_embeddings=False,
    )  # fmt: skip
    model = transformers.BeitForMaskedImageModeling(config).to(device)
    words = batch["tokens"][batch["masked"]]
    return step_of(model, lambda: model(batch["image"], bool_masked_pos=batch["masked"], labels=words).loss, device)


def given(method: str, size: Size, device: str) -> dict[str, Tensor]:
    """The same noise for both, 40 % of the patches hidden from BEiT."""
    generator = torch.Generator().manual_seed(0)
    patches = (size.image // 16) ** 2
    image = torch.randn(size.batch, 3, size.image, size.image, generator=generator)
    noise = torch.rand(size.batch, patches, generator=generator)
    batch = {"image": image, "noise": noise}
    if method == "beit":
        tokens = torch.randint(size.words, (size.batch, patches), generator=generator)
        batch = {"image": image, "masked": noise < 0.4, "tokens": tokens}
    return {name: value.to(device) for name, value in batch.items()}


MAKERS: dict[str, Callable[[str, Size, str, float], Step]] = {"ours": ours, "theirs": theirs}


def memory(maker: str, method: str, size: Size, device: str) -> float:
    """1e6 bytes that three steps take, in this process, which has done nothing before."""
    import transformers  # noqa: F401 - which both hold before a model is built

    if device == "cuda":
        before = 0.0
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak()
        before = resident_mb() or 0.0
    step = MAKERS[maker](method, size, device, 0.75)
    for _ in range(3):
        step()
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else (peak_mb() or 0.0) - before


def memory_apart(maker: str, method: str, options: argparse.Namespace) -> float:
    command = [sys.executable, "-m", "benchmarks.pretraining", "--memory", maker, "--only", method]
    command += ["--device", options.device, "--threads", str(options.threads), *(["--quick"] if options.quick else [])]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["megabytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny networks: shows that it works")
    parser.add_argument("--only", nargs="+", choices=("mae", "beit"), default=["mae", "beit"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--memory", choices=tuple(MAKERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = SIZES["quick" if options.quick else options.device]
    if options.memory:
        print(json.dumps({"megabytes": memory(options.memory, options.only[0], size, options.device)}))
        return
    print(describe(machine_facts()))
    print(f"{size}, {options.threads} threads, {options.device}, {options.rounds} rounds")
    columns = ("method", "theirs ms", "ours ms", "ratio", "without a mask", "theirs MB", "ours MB")
    print("  ".join(columns))
    for method in options.only:
        forms = {name: make(method, size, options.device, 0.75) for name, make in MAKERS.items()}
        if method == "mae":
            forms["unmasked"] = ours(method, size, options.device, 0.0)
        seconds = alternate(forms, rounds=options.rounds)
        del forms
        cells = [method, *(f"{statistics.median(seconds[name]) * 1e3:.1f}" for name in ("theirs", "ours"))]
        cells.append(f"{ratio(seconds['theirs'], seconds['ours']):.2f}")
        cells.append(f"{ratio(seconds['unmasked'], seconds['ours']):.2f}" if "unmasked" in seconds else "")
        cells += [f"{memory_apart(maker, method, options):.0f}" for maker in ("theirs", "ours")]
        print("  ".join(f"{cell:>{len(column)}}" for cell, column in zip(cells, columns, strict=True)), flush=True)


if __name__ == "__main__":
    main()
