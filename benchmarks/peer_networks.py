"""The public implementations that `benchmarks.peers` measures ours beside, and weights with which agreement means something.

With weights as constructed a network is chaotic: rounding alone turns half of its classes.  A segmenter therefore learns for
forty steps which of four bands of brightness a pixel of one photograph is in.  A classifier's batch norms take the statistics of
photographs and its last layer is fitted to their classes, in closed form, which costs two passes.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

CLASSES = 1000  # of classifiers
PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10_small"


@dataclass(frozen=True)
class Peer:
    """A public implementation.  `build` gives the network, `logits` reads (B, K, …) out of what it returns."""

    name: str
    build: Callable[[], nn.Module]
    ours: str  # the registered name, used where no key table fits
    size: tuple[int, int]
    quick_size: tuple[int, int] = (128, 256)
    logits: Callable[[Any], Tensor] = field(default=lambda output: output)
    kind: Literal["segmenter", "classifier"] = "segmenter"
    memory_at: tuple[int, int] | None = None  # also the peak memory of a pass over a picture of that size
    sized: Callable[[int], nn.Module] | None = (
        None  # the network for squares of that side, where `build`'s takes one size
    )


def _smp(name: str, encoder: str, **arguments: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import segmentation_models_pytorch as smp

        return getattr(smp, name)(encoder, encoder_weights=None, classes=19, **arguments)

    return build


def _transformers(hidden: tuple[int, ...], decoder: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        labels: dict[str, Any] = {"num_labels": 19}
        config = SegformerConfig(hidden_sizes=list(hidden), decoder_hidden_size=decoder, **labels)
        return SegformerForSemanticSegmentation(config)

    return build


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import segmentation

        return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=19)

    return build


def _upernet(trunk: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from transformers import ConvNextConfig, SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

        stages: Any = {"out_features": [f"stage{i}" for i in range(1, 5)]}
        if trunk == "swin":
            backbone: Any = SwinConfig(**stages)
        else:
            backbone = ConvNextConfig(hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3], **stages)
        return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, num_labels=19))

    return build


def _dpt() -> nn.Module:
    from transformers import DPTConfig, DPTForSemanticSegmentation

    return DPTForSemanticSegmentation(DPTConfig(num_labels=19, use_batch_norm_in_fusion_residual=True))


def _mobilenet() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation

    config = MobileNetV2Config(num_labels=19, output_stride=8, tf_padding=True, layer_norm_eps=0.001)
    return MobileNetV2ForSemanticSegmentation(config)


SEGMENTERS = (
    Peer(
        "smp DeepLabV3+ MobileNetV2", _smp("DeepLabV3Plus", "mobilenet_v2"), "deeplabv3plus_mobilenet_v2", (512, 1024)
    ),
    Peer("smp DeepLabV3+ ResNet-50", _smp("DeepLabV3Plus", "resnet50"), "deeplabv3plus", (512, 1024)),
    Peer("smp SegFormer-B0", _smp("Segformer", "mit_b0"), "segformer_b0", (512, 512)),
    Peer(
        "transformers SegFormer-B0",
        _transformers((32, 64, 160, 256), 256),
        "segformer_b0",
        (512, 512),
        logits=lambda output: output.logits,
    ),
    Peer(
        "transformers SegFormer-B1",
        _transformers((64, 128, 320, 512), 256),
        "segformer_b1",
        (512, 512),
        logits=lambda output: output.logits,
    ),
    Peer(
        "torchvision FCN ResNet-50",
        _torchvision("fcn_resnet50"),
        "fcn",
        (512, 1024),
        logits=lambda output: output["out"],
    ),
    Peer(
        "torchvision DeepLabV3 ResNet-50",
        _torchvision("deeplabv3_resnet50"),
        "deeplabv3_resnet50",
        (512, 1024),
        logits=lambda output: output["out"],
    ),
    Peer("smp DeepLabV3 ResNet-50", _smp("DeepLabV3", "resnet50"), "deeplabv3_resnet50", (512, 1024)),
    Peer("smp UPerNet ConvNeXt-T", _smp("UPerNet", "tu-convnext_tiny"), "upernet_convnext_tiny", (512, 512)),
    Peer(
        "smp DPT ViT-B/16",
        _smp("DPT", "tu-vit_base_patch16_224.augreg_in21k", dynamic_img_size=True),
        "dpt_base",
        (512, 512),
    ),
    *(
        Peer(f"transformers {title}", build, ours, (512, 512), (128, 128), logits=lambda output: output.logits)
        for title, build, ours in (
            ("UPerNet Swin-T", _upernet("swin"), "upernet_swin_tiny"),
            ("UPerNet ConvNeXt-T", _upernet("convnext"), "upernet_convnext_tiny"),
            ("DPT ViT-B/16", _dpt, "dpt_base"),
            ("DeepLabV3 MobileNetV2", _mobilenet, "deeplabv3"),
        )
    ),
)


def _timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=CLASSES, **arguments)

    return build


def _timm_classifier(name: str, ours: str, **more: Any) -> Peer:
    return Peer(f"timm {name}", _timm(name), ours, (224, 224), (224, 224), kind="classifier", **more)


def _shufflenet() -> nn.Module:
    from torchvision.models import shufflenet_v2_x0_5

    return shufflenet_v2_x0_5(weights=None, num_classes=CLASSES)


def _mit() -> nn.Module:
    from transformers import SegformerConfig, SegformerForImageClassification

    labels: dict[str, Any] = {"num_labels": CLASSES}
    return SegformerForImageClassification(SegformerConfig(**labels))


def _context_cluster() -> nn.Module:
    from benchmarks.context_cluster import ContextClusterTiny

    return ContextClusterTiny(CLASSES)


# the smallest form of each family that the other side has; RepMLPNet, FF-only, LV-ViT, EAMLP, MSCAN, ShuffleNetV1, STDC, DF and
# DBB are in no package: benchmarks.reference measures those of them whose public code was timed
CLASSIFIERS = (
    _timm_classifier("resnet18", "resnet18"),
    _timm_classifier("resnext50_32x4d", "resnext50_32x4d"),
    _timm_classifier("resnest14d", "resnest14"),
    _timm_classifier("hrnet_w18_small", "hrnet_w18_small"),
    _timm_classifier("mobilenetv1_100", "mobilenet_v1"),
    _timm_classifier("mobilenetv2_100", "mobilenet_v2"),
    _timm_classifier("mobilenetv3_small_100", "mobilenet_v3_small"),
    _timm_classifier("efficientnet_lite0", "efficientnet_lite0"),
    Peer("torchvision shufflenet_v2_x0_5", _shufflenet, "shufflenet_v2_050", (224, 224), (224, 224), kind="classifier"),
    _timm_classifier("legacy_xception", "xception"),
    _timm_classifier("xception41", "xception41"),
    _timm_classifier("convnext_atto", "convnext_atto"),
    _timm_classifier("vit_tiny_patch16_224", "vit_tiny_patch16_224"),
    _timm_classifier("vit_tiny_r_s16_p8_224", "vit_tiny_r_s16_p8_224"),
    _timm_classifier(
        "swin_tiny_patch4_window7_224",
        "swin_t",
        memory_at=(512, 512),
        sized=lambda side: _timm("swin_tiny_patch4_window7_224", img_size=side)(),
    ),
    Peer(
        "timm beit, as wide as ViT-S",  # its smallest is ViT-B's size
        _timm("beit_base_patch16_224", embed_dim=384, num_heads=6),
        "beit_b",
        (224, 224),
        (224, 224),
        kind="classifier",
    ),
    _timm_classifier("mixer_s32_224", "mlp_mixer_s32"),
    Peer(
        "transformers SegFormer's MiT-B0",
        _mit,
        "mit_b0",
        (224, 224),
        (224, 224),
        logits=lambda output: output.logits,
        kind="classifier",
    ),
    Peer(
        "Context Cluster's own operations",
        _context_cluster,
        "coc_tiny",
        (224, 224),
        (224, 224),
        kind="classifier",
        memory_at=(512, 512),
    ),
)
PEERS = (*SEGMENTERS, *CLASSIFIERS)


def photo(size: tuple[int, int], batch: int = 1) -> Tensor:
    """(B, 3, *size): normalised crops of scikit-image's astronaut."""
    from skimage.data import astronaut

    from segmentarium.contracts import Preprocessing
    from segmentarium.export.parity import network_input

    picture = astronaut()
    crops = [picture[start:, start:] for start in range(0, 32 * batch, 32)]
    return torch.cat([network_input(crop, size, Preprocessing(), 3) for crop in crops])


def photographs(part: Literal["train", "test"], count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(B, 3, *size) normalised photographs and (B,) their classes: CIFAR-10's in turn, where they are beside the checkout; else
    crops of scikit-image's, each photograph a class."""
    from segmentarium.contracts import Preprocessing
    from segmentarium.export.parity import network_input

    file = PHOTOGRAPHS / f"{part}.zip"
    pictures: list[np.ndarray] = []
    labels: list[int] = []
    if file.is_file():
        with zipfile.ZipFile(file) as archive:
            names = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")]
            known = sorted({Path(name).parent.name for name in names})
            of_class = [[name for name in names if Path(name).parent.name == label] for label in known]
            for i in range(count):
                label = i % len(known)
                with Image.open(io.BytesIO(archive.read(of_class[label][i // len(known)]))) as picture:
                    pictures.append(np.asarray(picture.convert("RGB")))
                labels.append(label)
    else:
        import skimage.data

        known = ("astronaut", "coffee", "chelsea", "rocket")
        rng = np.random.default_rng({"train": 0, "test": 1}[part])
        for i in range(count):
            whole = getattr(skimage.data, known[i % len(known)])()
            top, left = (int(rng.integers(0, side - 199)) for side in whole.shape[:2])
            pictures.append(whole[top : top + 200, left : left + 200])
            labels.append(i % len(known))
    images = torch.cat([network_input(picture, size, Preprocessing(), 3) for picture in pictures])
    return images, torch.tensor(labels)


def settle(model: nn.Module, logits: Callable[[Any], Tensor], steps: int = 40) -> None:
    """A few training steps on four broad bands of brightness, so that logits have margins as those of a trained network have."""
    images = photo((128, 128), batch=4)
    brightness = nn.functional.avg_pool2d(images.mean(1, keepdim=True), 33, 1, 16, count_include_pad=False)[:, 0]
    bands = torch.quantile(brightness, torch.linspace(0, 1, 5)[1:-1])
    target = torch.bucketize(brightness, bands)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model.train()
    for _ in range(steps):
        output = nn.functional.interpolate(logits(model(images)), target.shape[-2:], mode="bilinear")
        optimizer.zero_grad()
        nn.functional.cross_entropy(output, target).backward()
        optimizer.step()
    take_statistics(model, images)  # the running averages lag behind the last steps
    model.eval().requires_grad_(False)


@torch.no_grad()
def take_statistics(model: nn.Module, images: Tensor) -> None:
    """The running statistics of every batch norm: those of these images, exactly."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    if norms:
        model.train()(images)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    model.eval()


@torch.no_grad()
def fit_classifier(model: nn.Module, images: Tensor, labels: Tensor, ridge: float = 0.01) -> None:
    """Statistics of these images, and the last linear layer by ridge regression on their classes, of which it has `CLASSES`.

    ridge   added to the features' covariance, as a share of its mean diagonal
    """
    take_statistics(model, images)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].flatten(0, -2)))
    for part in images.split(8):
        model(part)
    handle.remove()
    features = torch.cat(seen).double()
    mean = features.mean(0)
    centred = features - mean
    gram = centred @ centred.T
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    targets = nn.functional.one_hot(labels, last.out_features).to(gram.dtype)
    weight = torch.linalg.solve(gram, targets - targets.mean(0)).T @ centred
    last.weight.copy_(weight)
    last.bias.copy_(targets.mean(0) - weight @ mean)
    model.requires_grad_(False)


def counterpart(peer: Peer, theirs: nn.Module) -> tuple[nn.Module, bool]:
    """Our model with the peer's weights and True; with weights of its own and False where no key table fits."""
    from segmentarium.registry import create_model
    from segmentarium.weights import load

    with tempfile.TemporaryDirectory() as folder:
        if hasattr(theirs, "save_pretrained") and type(theirs).__module__.startswith("transformers"):
            theirs.save_pretrained(folder)  # type: ignore[operator]  # keys of files, which it renames in memory
            path = Path(folder) / "model.safetensors"
        else:
            path = Path(folder) / "model.pth"
            torch.save(theirs.state_dict(), path)
        try:
            return load(path), True
        except ValueError:
            classes = CLASSES if peer.kind == "classifier" else 19
            return create_model(peer.ours, num_classes=classes).eval(), False
