"""Our real-time and other models against the public implementations of `reference_latency.json`, by its own method.

    python -m benchmarks.reference [MODEL …] [--reference FILE] [--threads 2] [--rounds 7]
        [--engines deploy-bf16,onnxruntime,openvino,openvino-bf16,openvino-int8] [--csv FILE]

The file gives t(implementation) / t(yardstick), the yardstick being torchvision's LR-ASPP with MobileNetV3-Large at the same
size, of classifiers timm's ResNet-18, measured in alternating rounds in one process. Here the same is measured of ours, so
that the quotient of the two ratios compares implementations across machines: above 1, ours is faster. As there: float32,
batch 1, random weights and input, two warm-up forwards with one under the FLOP counter between them, 7 rounds, glibc keeping
freed memory (set in the environment of the processes that this program starts, one for each model).

"eager" is contiguous, as the file's; "channels-last" and "deploy" (as `Predictor` runs it, layers packed) are what else the
same PyTorch can do; the engines run the exported network.  "openvino-int8" (not by default; it needs NNCF) has eight bits where
`export --int8` gives a network them, calibrated on the same noise, and bfloat16 elsewhere.  Of heads, the decoder alone is
timed, on random features of a picture of 512×512.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segmentarium.benchmarking.timing import alternate, ratio
from segmentarium.runtimes import onnx_session, openvino_network

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference_latency.json"
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
INT8 = "openvino-int8"
ENGINES = ("deploy-bf16", "onnxruntime", "openvino", "openvino-bf16")
COLUMNS: tuple[str, ...] = (
    "model",
    "size",
    "form",
    "ms",
    "yardstick_ms",
    "ratio",
    "public",
    "public_ratio",
    "faster",
    "problem",
)


@dataclass(frozen=True)
class Entry:
    """One of our models as the public implementations were built, and their names in the file."""

    model: str
    size: tuple[int, int]
    public: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 19
    part: Literal["model", "head", "classifier"] = "model"

    @property
    def name(self) -> str:
        words = [self.model, *map(str, self.arguments.values()), *(["head"] if self.part == "head" else [])]
        return f"{' '.join(words)} @{'x'.join(map(str, self.size))}"


ENTRIES = (
    Entry("bisenetv2", (512, 1024), ("BiSeNetV2 (CoinCheung)", "BiSeNetV2 (mmseg)")),
    Entry("bisenet_xception39", (512, 1024), ("BiSeNetV1-X39 (TorchSeg)",)),
    Entry("bisenet_resnet18", (512, 1024), ("BiSeNetV1-R18 (TorchSeg)",)),
    Entry(
        "bisenet_resnet18",
        (512, 1024),
        ("BiSeNetV1-R18 (CoinCheung)",),
        {"upsample": "nearest", "fusion": "norm", "align_corners": False, "head_channels": 256},
    ),
    Entry("stdc1", (512, 1024), ("STDC1-Seg",)),
    Entry("stdc2", (512, 1024), ("STDC2-Seg",)),
    Entry("regseg", (512, 1024), ("RegSeg exp48_decoder26",)),
    Entry("regseg_large", (512, 1024), ("RegSeg exp53_decoder29",)),
    Entry("icnet", (513, 1025), ("ICNet (caffe port)",)),
    Entry("icnet_resnet18", (512, 1024), ("ICNet-R18 (mmseg)",)),
    Entry("icnet_resnet50", (512, 1024), ("ICNet-R50 (mmseg)",)),
    Entry("fast_scnn", (512, 1024), ("Fast-SCNN",), {"form": "tramac"}),
    Entry("fast_scnn", (512, 1024), ("Fast-SCNN (mmseg)",), {"form": "mmseg"}),
    Entry("contextnet", (512, 1024), ("ContextNet",)),
    Entry("cgnet", (512, 1024), ("CGNet",)),
    Entry("dfanet", (512, 1024), ("DFANet",)),
    Entry("swiftnet", (512, 1024), ("SwiftNet-RN18",)),
    Entry("swiftnet_pyramid", (512, 1024), ("SwiftNet-RN18 pyramid",)),
    Entry("shelfnet18", (512, 1024), ("ShelfNet18",)),
    Entry("shelfnet34", (512, 1024), ("ShelfNet34",)),
    Entry("shelfnet50", (512, 1024), ("ShelfNet50",)),
    Entry("sfnet_resnet18", (512, 1024), ("SFNet-R18",)),
    Entry("sfnet_lite_resnet18", (512, 1024), ("SFNet-Lite-R18",)),
    Entry("fanet18", (512, 1024), ("FANet-18", "FANet-18 (no normalisation)")),
    Entry("fanet34", (512, 1024), ("FANet-34",)),
    Entry("enet", (512, 1024), ("ENet",)),
    Entry("enet_2018", (512, 1024), ("ENet (2018 revision)",)),
    Entry("erfnet", (512, 1024), ("ERFNet",)),
    Entry("pphumanseg", (256, 256), ("PP-HumanSeg-Lite (Paddle)",), num_classes=2),
    Entry("sinet", (256, 256), ("SINet",), num_classes=2),
    Entry("extremec3", (256, 256), ("ExtremeC3Net",), num_classes=1),
    Entry("portraitnet", (256, 256), ("PortraitNet (no edge output)",), num_classes=2),
    Entry("segformer_b0", (512, 512), ("SegFormer-B0 (NVlabs)", "transformers SegFormer-B0", "smp Segformer mit_b0")),
    Entry("segformer_b0", (512, 1024), ("SegFormer-B0 (NVlabs) @512x1024", "smp Segformer mit_b0 @512x1024")),
    Entry("segformer_b1", (512, 512), ("SegFormer-B1 (NVlabs)",)),
    Entry("segformer_b2", (512, 512), ("SegFormer-B2 (NVlabs)", "transformers SegFormer-B2")),
    Entry(
        "deeplabv3plus",
        (512, 1024),
        ("smp DeepLabV3Plus resnet50",),
        {"backbone": "resnet50", "output_stride": 16, "form": "smp"},
    ),
    Entry("fcn", (512, 1024), ("torchvision fcn_resnet50",)),
    Entry("pspnet", (513, 1025), ("PSPNet-R50 (semseg)",)),
    Entry("hrnetv2_w18_small", (512, 1024), ("HRNetV2-W18-small-v1 (official)",)),
    Entry("hrnetv2_w18_small_v2", (512, 1024), ("HRNetV2-W18-small-v2 (official)",)),
    Entry("hrnetv2_w18", (512, 1024), ("HRNetV2-W18 (official)",)),
    Entry("hrnetv2_w48", (512, 1024), ("HRNetV2-W48 (official)",)),
    Entry("lraspp", (512, 1024), ("torchvision lraspp_mobilenet_v3_large",)),
    Entry("deeplabv3_mobilenet_v3_large", (512, 1024), ("torchvision deeplabv3_mobilenet_v3_large",)),
    Entry("deeplabv3_resnet50", (512, 1024), ("torchvision deeplabv3_resnet50",)),
    Entry("spnet", (512, 1024), ("SPNet-R50 (official)",)),
    Entry("eanet_resnet50", (512, 1024), ("EANet-R50 os16",), {"output_stride": 16}),
    Entry("eanet_resnet50", (512, 1024), ("EANet-R50 os8",), {"output_stride": 8}),
    Entry("segnext_t", (512, 512), ("SegNeXt-T",)),
    Entry("segnext_t", (512, 1024), ("SegNeXt-T @512x1024",)),
    Entry("segnext_s", (512, 512), ("SegNeXt-S",)),
    Entry("segnext_b", (512, 512), ("SegNeXt-B",)),
    Entry("segmenter_tiny", (512, 512), ("Segmenter ViT-T/16 mask",)),
    Entry("segmenter_small", (512, 512), ("Segmenter ViT-S/16 mask",)),
    Entry("segvit_vit_base", (512, 512), ("SegViT ViT-B/16",)),
    Entry("upernet_swin_tiny", (512, 512), ("UPerNet Swin-T (mmseg)",)),
    Entry("upernet_convnext_tiny", (512, 512), ("UPerNet ConvNeXt-T (mmseg)",)),
    Entry("dpt_base", (512, 512), ("DPT-Base (vitb16_384)",)),
    Entry("dpt_hybrid", (512, 512), ("DPT-Hybrid (vitb_rn50_384)",)),
    *(
        Entry(model, (512, 512), tuple(public), part="head")
        for model, *public in (
            ("fcn_resnet50", "FCN"),
            ("fcn_hr18", "FCN-HR18"),
            ("pspnet_resnet50", "PSPNet"),
            ("deeplabv3_resnet50", "DeepLabV3 (ASPP)"),
            ("deeplabv3plus_resnet50", "DeepLabV3+"),
            ("upernet_resnet50", "UPerNet"),
            ("fpn_resnet50", "FPN (neck + head)"),
            ("pointrend_resnet50", "PointRend (neck + both heads)"),
            ("ocrnet_resnet50", "OCRNet"),
            ("ocrnet_hr18", "OCRNet-HR18"),
            ("encnet_resnet50", "EncNet"),
            ("danet_resnet50", "DANet"),
            ("danet", "DANet (official)"),
            ("ccnet_resnet50", "CCNet"),
            ("ccnet", "CCNet (official RCCA)"),
            ("ann", "ANN"),
            ("gcnet", "GCNet"),
            ("nonlocal", "NonLocal"),
            ("dnlnet", "DNLNet"),
            ("spnet", "SPNet (official)"),
        )
    ),
    Entry("cac_fcn_mobilenet_v2", (512, 512), ("CAC-FCN (official)",), {"backbone": "resnet50_v1c"}, part="head"),
    Entry("ecenet_swin_base", (512, 512), ("ECENet (port)",), {"backbone": "resnet50"}, part="head"),
    *(
        Entry(model, (224, 224), tuple(public), num_classes=1000, part="classifier")
        for model, *public in (
            ("resnet18", "timm resnet18"),
            ("resnet50", "timm resnet50"),
            ("resnest50", "timm resnest50d"),
            ("mobilenet_v2", "timm mobilenetv2_100"),
            ("mobilenet_v3_large", "timm mobilenetv3_large_100"),
            ("shufflenet_v1_050", "ShuffleNetV1 0.5x g3"),
            ("shufflenet_v1", "ShuffleNetV1 1.0x g3"),
            ("shufflenet_v1_g8", "ShuffleNetV1 1.0x g8"),
            ("shufflenet_v2", "ShuffleNetV2 1.0x (megvii)", "torchvision shufflenet_v2_x1_0"),
            ("xception65", "timm xception65"),
            ("hrnet_w18", "timm hrnet_w18"),
            ("convnext_tiny", "timm convnext_tiny"),
            ("vit_small_patch16_224", "timm vit_small_patch16_224"),
            ("swin_t", "timm swin_tiny_patch4_window7_224"),
            ("beit_b", "timm beit_base_patch16_224"),
            ("mlp_mixer_b16", "timm mixer_b16_224"),
            ("ff_only_tiny", "FF-only tiny"),
            ("ff_only_base", "FF-only base"),
            ("eamlp_7", "EAMLP-7 (EANet)"),
            ("eamlp_14", "EAMLP-14 (EANet)"),
            ("repmlpnet_t224", "RepMLPNet-T224"),
            ("repmlpnet_b224", "RepMLPNet-B224"),
            ("lvvit_s", "LV-ViT-S"),
            ("coc_tiny", "CoC-Tiny"),
            ("coc_tiny_plain", "CoC-Tiny plain"),
        )
    ),
)


def find(table: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The file's record of a public implementation, whichever its section."""
    return next((section[name] for section in table.values() if isinstance(section, dict) and name in section), None)


class Head(nn.Module):
    """The decoder of a model alone: a feature of each of the backbone's strides -> logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, *features: Tensor) -> Tensor:
        return self.decoder(features)


def head_engine(head: nn.Module, given: Sequence[Tensor], name: str) -> Callable[[], Any]:
    """The engine's run of a head, which is no whole model that the library exports: at these sizes."""
    feed = {f"feature{i}": feature.numpy() for i, feature in enumerate(given)}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "head.onnx")
        torch.onnx.export(
            head, tuple(given), file, input_names=list(feed), dynamo=True, external_data=False, verbose=False
        )
        if name == "onnxruntime":
            session = onnx_session(file, torch.get_num_threads())
            return lambda: session.run(None, feed)
        compiled = openvino_network(file, "bf16" if name.endswith("bf16") else "f32", torch.get_num_threads())
        return lambda: compiled(feed)


def eight_bits(model: nn.Module, image: Tensor) -> Callable[[Tensor], Any]:
    """The network as `export --int8` would write it for OpenVINO, run with the rest of it in bfloat16."""
    from segmentarium.export import export_model
    from segmentarium.inference.engines import build_engine
    from segmentarium.quantization.writers import openvino_writer
    from segmentarium.weights import load

    folder = tempfile.TemporaryDirectory()
    whole = export_model(model, Path(folder.name) / "whole.xml", format="openvino")
    small = Path(folder.name) / "small.xml"
    openvino_writer()(whole.path, small, iter([image.numpy()]), whole.metadata, False)
    run = build_engine(load(small), "openvino", precision="bf16")

    def keeping(image: Tensor, _: Any = folder) -> Any:  # the engine asks its file for shapes
        return run(image)

    return keeping


def measure(entry: Entry, rounds: int, engines: Sequence[str]) -> list[dict[str, Any]]:
    """Rows without the public numbers: milliseconds of each form and of the yardstick, and the ratio of the rounds."""
    from torch.utils.flop_counter import FlopCounterMode

    from segmentarium.benchmarking.forms import build_form
    from segmentarium.inference.packing import pack
    from segmentarium.registry import create_model

    torch.manual_seed(0)
    whole: Any = create_model(entry.model, num_classes=entry.num_classes, **entry.arguments).eval()
    model: nn.Module = Head(whole) if entry.part == "head" else whole
    if entry.part == "classifier":
        import timm

        yardstick = timm.create_model("resnet18").eval()
    else:
        from torchvision.models.segmentation import lraspp_mobilenet_v3_large

        yardstick = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19).eval()
    image = torch.randn(1, 3, *entry.size)
    inputs = [image]
    if entry.part == "head":
        height, width = entry.size
        shapes = zip(whole.backbone.channels, whole.backbone.strides, strict=True)
        inputs = [torch.randn(1, channels, height // stride, width // stride) for channels, stride in shapes]

    def deployed() -> nn.Module:
        return Head(whole.deploy()) if entry.part == "head" else whole.deploy()

    def forward(network: nn.Module, layout: torch.memory_format, given: Sequence[Tensor]) -> Callable[[], Any]:
        network.to(memory_format=layout)  # type: ignore[call-overload]
        given = [tensor.contiguous(memory_format=layout) for tensor in given]

        def run() -> Tensor | dict[str, Tensor]:
            with torch.inference_mode():
                return network(*given)

        return run

    def packed(network: nn.Module, given: Sequence[Tensor]) -> Callable[[], Any]:
        pack(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        return forward(network, torch.channels_last, given)

    def engine(name: str) -> Callable[[], Any]:
        if entry.part == "head":
            if name == "deploy-bf16":
                half = [tensor.to(torch.bfloat16) for tensor in inputs]
                return packed(deployed().to(torch.bfloat16), half)
            return head_engine(deployed(), inputs, name)
        built = eight_bits(model, image) if name == INT8 else build_form(model, name)
        return lambda: built(image)

    forms: dict[str, Callable[[], Callable[[], Any]]] = {
        "eager": lambda: forward(model, torch.contiguous_format, inputs),
        "channels-last": lambda: forward(copy.deepcopy(model), torch.channels_last, inputs),
        "deploy": lambda: packed(deployed(), inputs),
        **{name: partial(engine, name) for name in engines},
    }
    shared = {
        "model": f"{entry.model}{' head' if entry.part == 'head' else ''}",
        "size": "×".join(map(str, entry.size)),
    }
    rows: list[dict[str, Any]] = []
    for name, build in forms.items():
        try:
            run, measure_stick = build(), forward(yardstick, torch.contiguous_format, [image])
            run()
            with FlopCounterMode(display=False):
                run()
        except Exception as error:  # one engine's failure is a row of its own
            rows.append({**shared, "form": name, "problem": f"{type(error).__name__}: {error}".splitlines()[0]})
            continue
        seconds = alternate({"ours": run, "yardstick": measure_stick}, warmup=1, rounds=rounds)
        rows.append(
            {
                **shared,
                "form": name,
                "ms": statistics.median(seconds["ours"]) * 1e3,
                "yardstick_ms": statistics.median(seconds["yardstick"]) * 1e3,
                "ratio": ratio(seconds["ours"], seconds["yardstick"]),
            }
        )
    return rows


def compared(rows: list[dict[str, Any]], entry: Entry, table: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each form and public implementation; `faster` is the public ratio over ours."""
    found = [(name, record["ratio"]) for name in entry.public if (record := find(table, name)) is not None]
    if not found:
        return rows
    return [
        {**row, "public": name, "public_ratio": public, "faster": public / row["ratio"]}
        for row in rows
        for name, public in found
        if "ratio" in row
    ] + [row for row in rows if "ratio" not in row]


def run_one(entry: Entry, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures one entry in a process of its own, whose allocator keeps freed memory."""
    environment = os.environ | ALLOCATOR | {"OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        words = ["--one", entry.name, "--result", str(result), "--threads", str(options.threads)]
        words += ["--rounds", str(options.rounds), "--engines", options.engines]
        command = [sys.executable, "-m", __spec__.name, *words]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return json.loads(result.read_text(encoding="utf-8"))
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return [{"model": entry.model, "size": "×".join(map(str, entry.size)), "problem": last}]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", help=f"of {', '.join(dict.fromkeys(entry.model for entry in ENTRIES))}")
    parser.add_argument("--reference", type=Path, default=REFERENCE, metavar="FILE", help=f"default {REFERENCE}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default=",".join(ENGINES), metavar="A,B", help="'' for none")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    engines = tuple(part for part in options.engines.split(",") if part)
    if options.one:
        torch.set_num_threads(options.threads)
        entry = next(entry for entry in ENTRIES if entry.name == options.one)
        options.result.write_text(json.dumps(measure(entry, options.rounds, engines)), encoding="utf-8")
        return 0

    from rich.console import Console
    from rich.table import Table

    from segmentarium.benchmarking.machine import describe, machine_facts

    unknown = set(options.model) - {entry.model for entry in ENTRIES}
    if unknown:
        parser.error(f"no entry for {', '.join(sorted(unknown))}")
    console = Console(width=None if sys.stdout.isatty() else 150)
    table: dict[str, Any] = {}
    if options.reference.is_file():
        table = json.loads(options.reference.read_text(encoding="utf-8"))
    else:
        console.print(f"no {options.reference}: only our own ratios to the yardstick follow")
    facts = machine_facts()
    rows: list[dict[str, Any]] = []
    for entry in ENTRIES:
        if not options.model or entry.model in options.model:
            console.print(f"measuring {entry.name}", highlight=False)
            rows += compared(run_one(entry, options), entry, table)
            if options.csv:  # as far as it came, where it is cut off
                written(options.csv, rows)
    shown = Table(*COLUMNS)
    for row in rows:
        values = [row.get(column) for column in COLUMNS]
        shown.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v or "") for v in values))
    console.print(shown)
    console.print(describe(facts), highlight=False)
    return 1 if any(row.get("problem") for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
