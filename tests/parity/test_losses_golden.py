"""The losses against the values and gradients of the public implementations."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from segmentarium.losses import CrossEntropy, Lovasz, OhemCrossEntropy, PixelLoss, class_weights

TOLERANCE = 1e-4


def _scaled_logits(golden: ModuleType, labels: torch.Tensor, scale: float, boost: float) -> torch.Tensor:
    """The logits of the OHEM goldens: noise, raised at the labelled class so that most pixels are easy."""
    logits = torch.from_numpy(golden.example_input("logits", (labels.shape[0], 5, *labels.shape[1:]))) * scale
    valid = labels != 255
    logits.scatter_add_(1, labels.where(valid, 0)[:, None], boost * valid[:, None].float())
    return logits.requires_grad_()


def _compare(golden: ModuleType, loss: torch.Tensor, logits: torch.Tensor, arrays: dict, step: int) -> None:
    (gradient,) = torch.autograd.grad(loss, logits)
    assert golden.relative_error(loss.detach().numpy(), arrays["out/loss"]) <= TOLERANCE
    sampled = gradient[..., ::step, ::step].numpy().reshape(arrays["out/grad_logits"].shape)
    assert golden.relative_error(sampled, arrays["out/grad_logits"]) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "scale", "boost", "step", "loss"),
    [
        ("ohem-coincheung", 2.0, 0.0, 2, OhemCrossEntropy()),
        ("ohem-coincheung-topk", 0.5, 8.0, 2, OhemCrossEntropy()),
        ("ohem-stdc", 2.0, 0.0, 2, OhemCrossEntropy(min_kept=384)),
        ("ohem-stdc-topk", 0.5, 8.0, 2, OhemCrossEntropy(min_kept=384)),
        ("ohem-prob-sfnet", 2.0, 0.0, 2, OhemCrossEntropy(threshold=0.7, min_kept=1000)),
        ("ohem-prob-sfnet-minkept", 0.5, 4.0, 2, OhemCrossEntropy(threshold=0.1, min_kept=2000)),
        ("regseg-bootstrapped-ce", 2.0, 0.0, 4, OhemCrossEntropy(loss_threshold=0.3, min_kept=768)),
    ],
)
def test_hard_example_mining_equals_the_published_variants(
    golden: ModuleType, name: str, scale: float, boost: float, step: int, loss: PixelLoss
) -> None:
    _, arrays = golden.load(f"realtime/{name}")
    labels = torch.from_numpy(arrays["target/labels"])
    logits = _scaled_logits(golden, labels, scale, boost)
    _compare(golden, loss(logits, labels), logits, arrays, step)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("lovasz-softmax-present", Lovasz(classes="present")),
        ("lovasz-softmax-all-perimage", Lovasz(classes="all", per_image=True)),
    ],
)
def test_lovasz_softmax_equals_the_published_one(golden: ModuleType, name: str, loss: PixelLoss) -> None:
    _, arrays = golden.load(f"realtime/{name}")
    labels = torch.from_numpy(arrays["target/labels"])
    logits = _scaled_logits(golden, labels, 2.0, 0.0)
    _compare(golden, loss(logits, labels), logits, arrays, 2)


def test_lovasz_hinge_equals_the_published_one(golden: ModuleType) -> None:
    _, arrays = golden.load("realtime/lovasz-hinge")
    labels = torch.from_numpy(arrays["target/labels"])
    logits = (2.0 * torch.from_numpy(golden.example_input("logits", (2, 32, 48)))).unsqueeze(1).requires_grad_()
    _compare(golden, Lovasz(per_image=True)(logits, labels), logits, arrays, 1)


def test_cross_entropy_equals_every_mode_of_mmsegmentation(golden: ModuleType) -> None:
    description, arrays = golden.load("semantic/mmseg-cross-entropy")
    logits = torch.from_numpy(golden.example_input("logits", tuple(description["inputs"]["logits"])))
    labels = torch.from_numpy(arrays["target/label"])
    losses = [
        CrossEntropy(average="all")(logits, labels),
        CrossEntropy()(logits, labels),
        0.4 * CrossEntropy(average="all")(logits, labels),
        CrossEntropy(activation="sigmoid", average="all")(logits, labels),
        CrossEntropy(activation="sigmoid")(logits, labels),
    ]
    assert golden.relative_error(torch.stack(losses).numpy(), arrays["out/losses"]) <= TOLERANCE
    assert golden.relative_error(logits.softmax(1).numpy(), arrays["out/probability"]) <= TOLERANCE


def test_class_weights_equal_the_published_ones(golden: ModuleType) -> None:
    _, arrays = golden.load("realtime/enet-class-weights")
    labels = torch.from_numpy(arrays["target/labels"].astype(np.int64))
    counts = torch.bincount(labels.flatten(), minlength=5)
    assert golden.relative_error(class_weights(counts).numpy(), arrays["out/enet_weighing"]) <= TOLERANCE
    even = class_weights(counts, offset=1.10)
    assert golden.relative_error(even.numpy(), arrays["out/enet_weighing_c1.10"]) <= TOLERANCE
    for images in (1, 2):  # how many images the published loop takes at a time; its paper means 1
        batches = labels.split(images)
        seen = [sum(batch.numel() for batch in batches if (batch == index).any()) for index in range(5)]
        weights = class_weights(counts, "median_frequency", image_pixels=seen)
        assert golden.relative_error(weights.numpy(), arrays[f"out/median_freq_batch{images}"]) <= TOLERANCE

    weights = class_weights(counts)
    weights[-1] = 0.0
    logits = torch.from_numpy(arrays["target/logits"])
    loss = CrossEntropy(class_weight=weights)(logits, labels)
    assert golden.relative_error(loss.numpy(), arrays["out/weighted_ce"]) <= TOLERANCE
