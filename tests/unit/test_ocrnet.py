"""What makes OCRNet what it is: soft regions, what they sum to, and pixels that learn of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segmentarium.semantic.ocrnet import ObjectAttention, OCRDecoder, gather_regions
from tests.parity.comparison import randomise, relative_error


def test_a_region_is_the_mean_of_its_pixels() -> None:
    """With sure scores, whatever its size: the mean feature of each class."""
    labels = torch.randint(0, 3, (2, 5, 7))
    pixels = torch.randn(2, 4, 5, 7)
    scores = F.one_hot(labels, 3).permute(0, 3, 1, 2) * 80.0
    regions = gather_regions(pixels, scores)
    assert regions.shape == (2, 4, 3, 1)
    for image in range(2):
        for k in range(3):
            mean = pixels[image][:, labels[image] == k].mean(1)
            torch.testing.assert_close(regions[image, :, k, 0], mean)
    # what is added to all of a class's scores moves nothing: a softmax over places
    moved = scores + torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(gather_regions(pixels, moved), regions, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_attention_is_the_papers() -> None:
    """Widening the regions' values instead of the pixels' answers is the same function, and so is the folded form."""
    block: Any = randomise(ObjectAttention(12, 6))
    pixels, regions = torch.randn(2, 12, 9, 11), torch.randn(2, 12, 5, 1)
    query, key, value = block.query(pixels), block.key(regions)[..., 0], block.value(regions)[..., 0]
    share = (torch.einsum("bchw,bck->bkhw", query, key) * 6**-0.5).softmax(1)
    expected = block.norm(block.widen(torch.einsum("bkhw,bck->bchw", share, value))).relu()
    assert relative_error(block(pixels, regions), expected) <= 1e-5
    last = pixels.contiguous(memory_format=torch.channels_last)
    assert block(last, regions).is_contiguous(memory_format=torch.channels_last)
    block.reparameterize()
    assert isinstance(block.norm, nn.Identity)
    assert relative_error(block(pixels, regions), expected) <= 1e-5
    block.reparameterize()  # a second time changes nothing
    assert relative_error(block(pixels, regions), expected) <= 1e-5


def test_regions_come_from_the_coarse_head_and_teach_it() -> None:
    decoder = OCRDecoder(channels=(8, 16), strides=(8, 8), num_classes=4, width=12, key_channels=6).eval()
    features = [torch.randn(1, 8, 6, 6), torch.randn(1, 16, 6, 6)]
    decoder.classifier.weight.data.normal_()
    decoder(features).square().sum().backward()
    taught = decoder.coarse.classifier.weight.grad
    assert taught is not None
    assert taught.abs().max() > 0
    # the pixels' own feature is the deepest: the other acts through the regions alone
    before = decoder(features)
    decoder.coarse.classifier.weight.data.zero_()  # every region is all of the image
    assert not torch.allclose(decoder(features), before)
    assert [(term.name, term.weight) for term in decoder.objective()] == [("logits", 1.0), ("coarse", 0.4)]


@pytest.mark.parametrize("joined", [False, True])
@torch.no_grad()
def test_one_class_has_a_background_too(joined: bool) -> None:
    """With one region alone every pixel would get the same answer."""
    decoder: Any = randomise(
        OCRDecoder(channels=(8, 16), strides=(8, 16), num_classes=1, joined=joined, width=12, key_channels=6)
    )
    seen = []
    decoder.attention.register_forward_hook(lambda _m, given, answer: seen.append((given[1], answer)))
    decoder.coarse.classifier.weight.data.normal_()
    logits = decoder([torch.randn(1, 8, 6, 6), torch.randn(1, 16, 3, 3)])
    regions, answer = seen[0]
    assert logits.shape == ((1, 1, 6, 6) if joined else (1, 1, 3, 3))
    assert regions.shape == (1, 12, 2, 1)
    assert answer.std((2, 3)).max() > 0
