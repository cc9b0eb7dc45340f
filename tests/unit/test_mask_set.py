"""Sets of masks: read as semantic scores, instances and panoptic maps, in bands of rows, as transformers and the authors do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segmentarium.benchmarking.memory import peak_mb, reset_peak, resident_mb
from segmentarium.contracts import MaskSet
from segmentarium.contracts.results import boxes_around
from tests.unit.test_kinds import TinyMasks, filled, made


def some_masks(seed: int = 3) -> MaskSet:
    """Five sure queries on 12×16 pixels: two of class 0, one of class 1, one of class 2, and one that is no object; every pixel
    is had by one at least, some by two."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([[0, 0, 1, 2, 3]])
    class_logits = 9.0 * nn.functional.one_hot(labels, 4) + torch.rand(1, 5, 4, generator=generator)
    masks = torch.full((1, 5, 12, 16), -8.0)
    for query, (top, bottom, left, right) in enumerate(
        ((0, 7, 0, 8), (5, 12, 0, 8), (0, 12, 8, 13), (0, 12, 12, 16), (0, 12, 0, 16))
    ):
        masks[0, query, top:bottom, left:right] = 8.0 - query  # no two alike where they meet
    return MaskSet(class_logits, masks)


def test_a_mask_model_gives_semantic_scores_at_the_image_s_size() -> None:
    model = made("mask")
    (image,) = filled(model)
    scores = model(image)
    assert scores.shape == (2, 3, 64, 96)
    found = model.forward_masks(image)
    assert found.mask_logits.shape == (2, 5, 16, 24)
    whole = nn.functional.interpolate(found.mask_logits, (64, 96), mode="bilinear").sigmoid()
    one = found.class_logits[1].softmax(-1)
    by_hand = sum(one[q, 2] * whole[1, q, 10, 20] for q in range(5))
    assert scores[1, 2, 10, 20].item() == pytest.approx(by_hand.item(), abs=1e-6)
    one = TinyMasks(num_classes=1)
    assert one.labels() == {"num_classes": 1, "classes": ["class 0"], "palette": [[128, 0, 0]]}
    assert one.things == (0,)  # nobody has said so, and the file does not
    with torch.inference_mode():  # of one class: where it is likelier than not
        probability = one.forward_masks(image).at((64, 96)).semantic()
        assert torch.equal(one(image) > 0, probability > 0.5)


def reference(found: MaskSet):
    """transformers' processor and the outputs it takes."""
    transformers = pytest.importorskip("transformers")
    from types import SimpleNamespace

    outputs = SimpleNamespace(class_queries_logits=found.class_logits, masks_queries_logits=found.mask_logits)
    return transformers.MaskFormerImageProcessor(), outputs


def test_semantic_is_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    found = MaskSet(torch.randn(2, 5, 4, generator=generator), torch.randn(2, 5, 6, 8, generator=generator))
    processor, outputs = reference(found)
    theirs = processor.post_process_semantic_segmentation(outputs)
    assert torch.equal(found.semantic().argmax(1), torch.stack(theirs))


def test_instances_are_transformers() -> None:
    found = some_masks()
    processor, outputs = reference(found)
    theirs = processor.post_process_instance_segmentation(outputs, threshold=0.0, return_binary_maps=True)[0]
    (ours,) = found.instances(count=5)
    assert (ours.scores.diff() <= 0).all()
    segments = theirs["segments_info"]
    order = sorted(range(len(segments)), key=lambda i: -segments[i]["score"])
    assert ours.labels.tolist() == [segments[i]["label_id"] for i in order]
    assert ours.scores.tolist() == pytest.approx([segments[i]["score"] for i in order], abs=1e-6)
    assert torch.equal(ours.masks, theirs["segmentation"][order].bool())
    for box, mask in zip(ours.boxes.long().tolist(), ours.masks, strict=True):
        x0, y0, x1, y1 = box
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        assert all(line.any() for line in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))
    (things,) = found.instances(count=5, things={0})
    assert set(things.labels.tolist()) == {0}


def test_panoptic_is_transformers() -> None:
    found = some_masks()
    processor, outputs = reference(found)
    for things in ((), (0,), (0, 1, 2)):
        theirs = processor.post_process_panoptic_segmentation(
            outputs, threshold=0.8, overlap_mask_area_threshold=0.3, label_ids_to_fuse={0, 1, 2} - set(things)
        )[0]
        (ours,) = found.panoptic(things, overlap=0.3)
        assert torch.equal(ours.ids, theirs["segmentation"])
        ids = [segment["id"] for segment in theirs["segments_info"]]
        assert sorted({segment.id for segment in ours.segments}) == sorted(set(ids))
        labels = {segment["id"]: segment["label_id"] for segment in theirs["segments_info"]}
        assert {segment.id: segment.label for segment in ours.segments} == labels
    assert len(found.panoptic((0,), overlap=0.3)[0].segments) == 4
    assert len(found.panoptic((), overlap=0.3)[0].segments) == 3


def test_a_covered_query_an_unsure_one_and_a_faint_pixel_belong_to_nobody() -> None:
    sure, faint = 8.0, -0.5
    class_logits = torch.tensor([[[9.0, 0, 0], [8.0, 0, 0], [0.5, 0, 0]]])
    masks = torch.full((1, 3, 4, 10), -8.0)
    masks[0, 0, :, :6], masks[0, 0, 0, 9] = (
        sure,
        faint,
    )  # the faint pixel has no better owner, and still is not half sure
    masks[0, 1, :, 2:7] = sure - 1  # four of its five columns are the first's
    masks[0, 2, :, 8:] = sure  # class probability below the threshold
    (result,) = MaskSet(class_logits, masks).panoptic({0})
    assert [segment.id for segment in result.segments] == [1]
    assert result.ids.sum() == 24
    assert result.ids[0, 9] == 0
    (more,) = MaskSet(class_logits, masks).panoptic({0}, overlap=0.1, threshold=0.3)
    assert len(more.segments) == 3
    (nobody,) = MaskSet(class_logits, masks).panoptic({0}, threshold=0.9999)
    assert (nobody.ids.sum(), nobody.segments) == (0, ())


def random_masks(queries: int = 30, classes: int = 4, size: tuple[int, int] = (13, 17)) -> MaskSet:
    """Blobs of every size whose queries are of every class and sure of it or not."""
    generator = torch.Generator().manual_seed(5)
    small = torch.randn(2, queries, 4, 5, generator=generator)
    masks = 4 * nn.functional.interpolate(small, size, mode="bilinear") - 3
    return MaskSet(3 * torch.randn(2, queries, classes + 1, generator=generator), masks)


def naive(found: MaskSet, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(B, Q, K + 1) and (B, Q, *size): probabilities of everything at once."""
    masks = nn.functional.interpolate(found.mask_logits, size, mode="bilinear", align_corners=False)
    return found.class_logits.softmax(-1), masks.sigmoid()


def naive_panoptic(found: MaskSet, size: tuple[int, int], things: set[int], overlap: float, faint: bool):
    """The authors' merging in the order of their papers' text, for the first picture."""
    (classes, *_), (masks, *_) = naive(found, size)
    score, label = classes.max(-1)
    kept = (label < classes.shape[-1] - 1) & (score > 0.4)
    score, label, masks = score[kept], label[kept], masks[kept]
    ids, segments, fused = torch.zeros(size, dtype=torch.int32), [], {}
    winner = (score[:, None, None] * masks).argmax(0)
    for query in range(len(score)):
        mine, whole = winner == query, masks[query] >= 0.5
        seen = mine if faint else mine & whole
        if not seen.any() or not whole.any() or mine.sum() / whole.sum() < overlap:
            continue
        one = int(label[query])
        if one not in fused:
            segments.append((len(segments) + 1, one, pytest.approx(score[query].item())))
        ids[seen] = fused.get(one, len(segments))
        if one not in things:
            fused.setdefault(one, len(segments))
    return ids, segments


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("size", [(53, 71), (13, 17), (6, 40)])
def test_masks_are_read_in_bands_and_give_what_they_give_at_once(
    size: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = random_masks()
    classes, masks = naive(found, size)
    monkeypatch.setattr("segmentarium.contracts.results.BAND_BYTES", rows * 4 * 30 * size[1])
    read = found.at(size)
    torch.testing.assert_close(read.semantic(), torch.einsum("bqk,bqhw->bkhw", classes[..., :-1], masks))
    for faint in (False, True):
        ids, segments = naive_panoptic(found, size, {0, 1}, 0.1, faint)
        ours = read.panoptic({0, 1}, threshold=0.4, overlap=0.1, faint=faint)[0]
        assert (ours.ids == ids).float().mean() > 0.999  # rounding at ties
        assert list(ours.segments) == segments
        assert len({segment[1] for segment in segments}) >= 2
        assert len(segments) >= 3
    (instances, _) = read.instances(count=20)
    scores, best = classes[0, :, :-1].flatten().topk(20)
    inside = masks[0, best // 4] > 0.5
    expected = scores * (masks[0, best // 4] * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
    order = [i for i in expected.argsort(descending=True).tolist() if inside[i].any()]
    torch.testing.assert_close(instances.scores, expected[order])
    assert instances.labels.tolist() == (best % 4)[order].tolist()
    assert (instances.masks == inside[order]).float().mean() > 0.999
    (sure, _) = read.instances(count=20, threshold=0.5)
    assert torch.equal(sure.scores, instances.scores[instances.scores >= 0.5])
    assert torch.equal(sure.masks, instances.masks[: len(sure)])


def test_resized_is_what_is_read() -> None:
    found = random_masks()
    small, read = found.resized((26, 34)), found.at((26, 34))
    assert small.mask_logits.shape == (2, 30, 26, 34)
    assert read.mask_logits.shape == found.mask_logits.shape
    assert small.shape == read.shape == (26, 34)
    torch.testing.assert_close(small.semantic(), read.semantic())


def test_a_large_picture_never_has_a_float_for_each_query_and_pixel() -> None:
    """20,000 pixels wide, 100 queries: floats of all would take 32 MB a row of 4,000."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, Tensor) and tensor.is_floating_point():
                    largest = max(largest, tensor.numel() * tensor.element_size())
            return result

    found = MaskSet(torch.randn(1, 100, 4), torch.randn(1, 100, 3, 50)).at((40, 20_000))
    with Watch():
        (panoptic,) = found.panoptic({0}, threshold=0.1)
        found.instances(threshold=0.3)
        found.semantic()
    assert panoptic.ids.shape == (40, 20_000)
    assert largest <= 2**25 < 4 * 100 * 40 * 20_000 / 9


def test_4k_is_merged_in_little_memory() -> None:
    """2160×3840 of a hundred queries, a dozen of them sure: what is held beside the masks themselves."""
    torch.manual_seed(0)
    labels = torch.full((1, 100), 3)
    labels[0, :12] = torch.arange(12) % 3
    found = MaskSet(9.0 * nn.functional.one_hot(labels, 4), 4 * torch.randn(1, 100, 135, 240)).at((2160, 3840))
    if not reset_peak():
        pytest.skip("this system does not tell the most memory that was held")
    before = resident_mb() or 0.0
    (panoptic,) = found.panoptic({0}, overlap=0.0)
    held = (peak_mb() or 0.0) - before
    assert panoptic.ids.shape == (2160, 3840)
    assert len(panoptic.segments) == 4 + 2  # four of the thing, one of either stuff
    assert held < 200  # its map and the queries' numbers are 50 of it; floats of all queries would be 3,300


def test_nothing_to_see_and_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = MaskSet(torch.tensor([[[0.0, 0.0, 9.0]] * 5]), torch.randn(1, 5, 4, 4)).at((9, 8))
    assert len(nobody.instances(threshold=0.5)[0]) == 0
    assert nobody.instances(threshold=0.5)[0].masks.shape == (0, 9, 8)
    assert nobody.panoptic({0})[0].segments == ()
    masks = torch.full((1, 500, 25, 20), -9.0)  # 500 objects of one pixel each
    masks.view(500, 500).fill_diagonal_(9.0)
    everybody = MaskSet(torch.tensor([[[9.0, 0.0, 0.0]]]).expand(1, 500, 3), masks)
    (panoptic,) = everybody.panoptic({0})
    assert torch.equal(panoptic.ids.flatten(), torch.arange(1, 501, dtype=torch.int32))
    assert len(everybody.instances(count=1000, threshold=0.5)[0]) == 500
    assert len(everybody.panoptic(())[0].segments) == 1


def test_boxes_around_masks() -> None:
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 4, 6] = True
    assert boxes_around(masks).tolist() == [[2, 1, 6, 3], [6, 4, 7, 5]]
    assert boxes_around(masks[:0]).shape == (0, 4)
