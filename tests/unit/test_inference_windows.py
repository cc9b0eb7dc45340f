"""Windows: the same as the whole picture for a local network, no seams, any size, bounded memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from segmentarium.inference import windows
from segmentarium.inference.tta import augmented, indices, probabilities
from segmentarium.inference.windows import TensorRows, grid, overlap_in_pixels, profiles, sliding, stream, whole


@pytest.mark.parametrize(("tile", "overlap"), [(128, 32), (64, 0.5), (100, 0), (32, 16), (333, 8), (1024, 0.125)])
@pytest.mark.parametrize("blend", ["cosine", "linear", "mean"])
def test_a_local_network_gives_the_same_in_tiles_as_whole(tile: int, overlap: float, blend: windows.Blend) -> None:
    local = nn.Conv2d(3, 4, 1).requires_grad_(False)
    image = torch.randn(1, 3, 133, 217)
    for batch_size in (1, 3):
        tiled = sliding(local, image, tile, overlap, blend, batch_size=batch_size)
        torch.testing.assert_close(tiled, whole(local, image), atol=2e-6, rtol=0)


def test_a_small_receptive_field_agrees_away_from_the_tiles_edges() -> None:
    # Three pixels from the middle of every overlap, a 3x3 convolution cannot see a tile's border; without padding
    # effects the two differ only where a tile that misses context has weight, and there the ramp is at its foot.
    network = nn.Conv2d(1, 2, 3, padding=1, bias=False).requires_grad_(False)
    image = torch.randn(1, 1, 100, 300)
    difference = (sliding(network, image, 128, 32) - whole(network, image)).abs().amax((0, 1, 2))
    starts, length = grid(300, 128, 32)
    inner = torch.ones(300, dtype=torch.bool)
    for start in starts:
        inner[[start, start + length - 1]] = False
    assert difference[inner].max() < 1e-5
    assert difference.max() < 0.01  # cosine at its first half pixel of 32


@pytest.mark.parametrize("size", [31, 128, 129, 300, 1000])
@pytest.mark.parametrize("blend", ["cosine", "linear", "mean"])
def test_weights_are_positive_and_sum_to_one(size: int, blend: windows.Blend) -> None:
    starts, length = grid(size, 128, 40)
    total = torch.zeros(size)
    for start, weight in zip(starts, profiles(starts, length, size, 40, blend), strict=True):
        assert weight.min() > 0
        total[start : start + length] += weight
    torch.testing.assert_close(total, torch.ones(size))


@pytest.mark.parametrize("size", [1, 32, 100, 513, 1000, 20000])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (128, 64), (1024, 128), (100, 7)])
def test_grid_covers_the_picture_with_the_overlap_asked_for(size: int, tile: int, overlap: int) -> None:
    starts, length = grid(size, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + length == size
    assert length <= tile
    steps = [after - before for before, after in itertools.pairwise(starts)]
    assert all(0 < step <= length - overlap + 1 for step in steps)


def test_blocks_cover_each_pixel_once_from_top_to_bottom() -> None:
    seen = torch.zeros(150, 260, dtype=torch.int)
    top = 0
    for block in stream(torch.clone, TensorRows(torch.randn(1, 2, 150, 260)), 64, 16):
        height, width = block.logits.shape[-2:]
        assert block.top >= top
        top = block.top
        seen[block.top : block.top + height, block.left : block.left + width] += 1
    assert (seen == 1).all()


def test_rows_are_read_forwards_and_never_more_than_a_tile_of_them() -> None:
    class Recorder(TensorRows):
        calls: list[tuple[int, int]] = []  # noqa: RUF012 - one test

        def rows(self, top: int, bottom: int) -> torch.Tensor:
            self.calls.append((top, bottom))
            return super().rows(top, bottom)

    reader = Recorder(torch.randn(1, 1, 500, 70))
    sliding(torch.clone, reader, 64, 16)
    tops = [top for top, _ in reader.calls]
    assert tops == sorted(tops)
    assert max(bottom - top for top, bottom in reader.calls) <= 64


def test_a_carry_beyond_the_limit_is_kept_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(1, 3, 200, 200)
    monkeypatch.setattr(windows, "CARRY_LIMIT", 0)
    tiled = sliding(torch.clone, image, 64, 16)
    assert 0 < (tiled - image).abs().max() < 2e-3


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (31, 31), (33, 65)])
def test_pictures_smaller_than_32_pixels_are_padded_and_cropped(size: tuple[int, int]) -> None:
    seen = []

    def forward(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.shape)
        return image.clone()

    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    assert torch.equal(whole(forward, image), image)
    assert min(seen[0][-2:]) >= 32
    torch.testing.assert_close(sliding(forward, image, 64), image.float())


def test_errors_say_what_to_give() -> None:
    with pytest.raises(ValueError, match="tile is 16; give 32 pixels or more"):
        overlap_in_pixels(16, 0)
    with pytest.raises(ValueError, match="half the tile"):
        overlap_in_pixels(64, 40)
    with pytest.raises(ValueError, match="blend is 'cubic'"):
        sliding(torch.clone, torch.zeros(1, 1, 99, 99), 32, 8, "cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        whole(torch.clone, torch.zeros(1, 1, 0, 9))
    with pytest.raises(ValueError, match="positive factors"):
        augmented(torch.clone, scales=())


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_augmentation_averages_probabilities(channels: int) -> None:
    network = nn.Conv2d(3, channels, 3, padding=1).requires_grad_(False)
    image = torch.randn(2, 3, 40, 60)
    views = [network(image), network(image.flip(-1)).flip(-1)]
    forward = augmented(network, flip=True)
    expected = (probabilities(views[0]) + probabilities(views[1])) / 2
    torch.testing.assert_close(probabilities(forward(image)), expected, atol=1e-6, rtol=1e-5)
    assert augmented(network) is network


def test_augmentation_at_another_scale_keeps_the_size_and_pads_what_is_too_small() -> None:
    network = nn.Conv2d(3, 2, 1).requires_grad_(False)
    flat = torch.full((1, 3, 40, 60), 0.3)
    out = augmented(network, flip=True, scales=(0.25, 1.0, 1.5))(flat)
    torch.testing.assert_close(probabilities(out), probabilities(network(flat)))


def test_indices_of_one_two_and_many_classes() -> None:
    one = torch.tensor([-1.0, 0.0, 2.0]).view(1, 1, 1, 3)
    assert indices(one).tolist() == [[[0, 0, 1]]]
    for channels in (2, 7, 300):
        logits = torch.randn(2, channels, 9, 11)
        assert torch.equal(indices(logits).long(), logits.argmax(1))
    assert indices(torch.randn(1, 300, 4, 4)).dtype == torch.int64


def test_tiles_of_published_protocols_stand_a_stride_apart() -> None:
    assert grid(84, 48, 16, spread=False) == ([0, 32, 36], 48)
    assert grid(112, 48, 16, spread=False) == ([0, 32, 64], 48)
    assert grid(48, 48, 16, spread=False) == ([0], 48)
    picture = torch.rand(1, 3, 100, 84)
    seen = sliding(lambda tile: tile[:, :1] + tile.mean(), picture, 48, 16, "mean", spread=False)
    total, count = torch.zeros(1, 1, 100, 84), torch.zeros(100, 84)
    for top in (0, 32, 52):
        for left in (0, 32, 36):
            tile = picture[..., top : top + 48, left : left + 48]
            total[..., top : top + 48, left : left + 48] += tile[:, :1] + tile.mean()
            count[top : top + 48, left : left + 48] += 1
    assert torch.allclose(seen, total / count, atol=1e-5)
