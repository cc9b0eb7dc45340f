"""FANet's attention.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import torch

from segmentarium.realtime.fanet import FastAttention
from tests.parity.comparison import randomise


@torch.inference_mode()
def test_attention_is_the_mean_of_values_by_cosine():
    attention = randomise(FastAttention(6, keys=4))
    x = torch.randn(2, 6, 3, 5)
    query, key = (torch.nn.functional.normalize(f(x), dim=1).flatten(2) for f in (attention.query, attention.key))
    weights = query.transpose(1, 2) @ key  # (B, N, N), what the fast form never builds
    assert weights.abs().max() <= 1 + 1e-5
    mixed = (attention.value(x).flatten(2) @ weights.transpose(1, 2)).unflatten(2, (3, 5))
    torch.testing.assert_close(attention(x), attention.project(mixed) + x, atol=1e-5, rtol=1e-4)
