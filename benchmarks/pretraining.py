"""A step of MAE's and of BEiT's pretraining here and in transformers, of the same sizes, side by side in one run.

    python -m benchmarks.pretraining [--size small] [--only mae beit] [--threads 2] [--rounds 5] [--device cpu] [--no-memory]

A step is forward, loss, backward and AdamW; ours and theirs take turns, round by round, and a ratio is the median over the rounds
of theirs over ours: above 1, ours is faster.  Ours is as `segmentarium pretrain` runs it, its linear layers through oneDNN on the
processor; AdamW is the same.  MAE's is timed without a mask, too: how many times longer that step takes.  Memory
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
from segmentarium.training.linear import quicken


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


SIZES = {
    "quick": Size(64, 2, 2, (32, 1, 2), 64, 2, 64),
    "small": Size(384, 12, 6, (256, 4, 8), 224, 4),
    # with the paper's lightest decoder, which is as good there (tables 1a, 1b): less is left that no mask makes cheaper
    "base": Size(768, 12, 12, (256, 4, 8), 224, 4),
    "published": Size(768, 12, 12, (512, 8, 16), 224, 64),
}
Step = Callable[[], None]


def step_of(model: nn.Module, loss: Callable[[], Tensor], device: str) -> Step:
    """Forward, backward, and the optimiser, which all models here share."""
    model.train()
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, 1e-4, betas=(0.9, 0.95), fused=True)

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
    if device == "cpu":
        quicken(model)
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
    command += ["--device", options.device, "--threads", str(options.threads), "--size", options.size]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["megabytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", choices=tuple(SIZES), help="default: base, on a GPU published; quick shows that it works"
    )
    parser.add_argument("--only", nargs="+", choices=("mae", "beit"), default=["mae", "beit"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-memory", action="store_true", help="leave out the processes that measure it")
    parser.add_argument("--memory", choices=tuple(MAKERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.size = options.size or ("base" if options.device == "cpu" else "published")
    size = SIZES[options.size]
    if options.memory:
        print(json.dumps({"megabytes": memory(options.memory, options.only[0], size, options.device)}))
        return
    print(describe(machine_facts()))
    print(f"{size}, {options.threads} threads, {options.device}, {options.rounds} rounds")
    for method in options.only:
        forms = {name: make(method, size, options.device, 0.75) for name, make in MAKERS.items()}
        if method == "mae":
            forms["without a mask"] = ours(method, size, options.device, 0.0)
        seconds = alternate(forms, rounds=options.rounds)
        del forms
        for name, times in seconds.items():
            against = f", {ratio(times, seconds['ours']):.2f} times ours" if name != "ours" else ""
            print(f"{method}, {name}: {statistics.median(times) * 1e3:.1f} ms a step{against}", flush=True)
        for maker in () if options.no_memory else MAKERS:
            print(f"{method}, {maker}: {memory_apart(maker, method, options):.0f} MB", flush=True)


if __name__ == "__main__":
    main()
