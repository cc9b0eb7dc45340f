"""Evaluation: the numbers of a brute-force count, in memory that does not grow, and reports that hold them."""

from __future__ import annotations

import json
import math
import sys
import weakref
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segmentarium.cli.tables import plain
from segmentarium.contracts import Preprocessing
from segmentarium.evaluation import Report, evaluate, match_classes
from segmentarium.evaluation import score as score_module
from segmentarium.evaluation.diagnosis import best_renumbering, label_warning
from segmentarium.evaluation.tally import Tally, image_miou
from segmentarium.evaluation.worst import Worst
from segmentarium.palette import default_palette

NAMES = ("road", "tree", "sky", "car")


class Images:
    """Random pictures whose labels follow their brightness; made when asked for, so that only `evaluate` can hoard."""

    def __init__(self, count: int, size: tuple[int, int] = (40, 56), names=NAMES, noise: float = 0.3, void=0.1) -> None:
        self.count, self.size, self.noise, self.void = count, size, noise, void
        self.info = SimpleNamespace(
            name="made", classes=tuple(names), palette=default_palette(len(names)), licence="none"
        )
        self.loads = 0

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"image_{index:04d}"

    def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
        self.loads += 1
        random = np.random.default_rng(index)
        labels = max(len(self.info.classes), 2)
        target = random.integers(0, labels, self.size).astype(np.uint8)
        shown = np.where(random.random(self.size) < self.noise, random.integers(0, labels, self.size), target)
        pixels = np.repeat((shown * (255 // labels) + 20).astype(np.uint8)[..., None], 3, -1)
        target[random.random(self.size) < self.void] = 255
        return Image.fromarray(pixels), target


class Brightness(nn.Module):
    """Logits by the brightness of each pixel alone: a model whose answers one can count by hand."""

    def __init__(self, labels: int = 4, channels: int | None = None) -> None:
        super().__init__()
        channels = labels if channels is None else channels
        self.labels, self.num_classes, self.in_channels = labels, channels, 3
        self.classes = tuple(f"class {i}" for i in range(max(channels, 2)))
        self.preprocessing = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        value = (image[:, :1] * 255 - 20) / (255 // self.labels) * self.weight
        if self.num_classes == 1:
            return (value - 0.5) * 4
        centres = torch.arange(self.num_classes, device=image.device).view(1, -1, 1, 1)
        return -((value - centres) ** 2)


def by_hand(dataset: Images) -> np.ndarray:
    """(K, K) counts, pixel by pixel, of what `Brightness` sees."""
    labels = max(len(dataset.info.classes), 2)
    counts = np.zeros((labels, labels), np.int64)
    for index in range(len(dataset)):
        picture, target = dataset.load(index)
        seen = np.array(picture)[..., 0]
        for value, label in zip(seen.ravel().tolist(), target.ravel().tolist(), strict=True):
            if label != 255:
                counts[label, (value - 20) // (255 // labels)] += 1
    return counts


def test_numbers_equal_a_brute_force_count() -> None:
    dataset = Images(5)
    report = evaluate(Brightness(), dataset)
    counts = by_hand(dataset)
    np.testing.assert_array_equal(report.confusion, counts)
    iou = [counts[i, i] / (counts[i].sum() + counts[:, i].sum() - counts[i, i]) for i in range(4)]
    accuracy = [counts[i, i] / counts[i].sum() for i in range(4)]
    assert list(report.iou) == list(NAMES)
    assert list(report.iou.values()) == pytest.approx(iou)
    assert report.miou == pytest.approx(sum(iou) / 4)
    assert report.macc == pytest.approx(sum(accuracy) / 4)
    assert report.aacc == pytest.approx(np.trace(counts) / counts.sum())
    assert (report.images, report.void) == (5, 0)
    assert report.pixels == counts.sum()
    assert report.pixels + report.ignored == 5 * 40 * 56


def test_boundary_iou_equals_eroded_masks() -> None:
    from scipy.ndimage import binary_erosion

    dataset = Images(3, noise=0.02, void=0.0)
    report = evaluate(Brightness(), dataset, boundary_ratio=0.02)
    assert report.boundary_iou_by_class is not None
    both, either = np.zeros(4), np.zeros(4)
    for index in range(3):
        picture, target = dataset.load(index)
        seen = (np.array(picture)[..., 0] - 20) // (255 // 4)
        for label in range(4):
            edges = [
                m & ~binary_erosion(m, np.ones((3, 3)), iterations=max(1, round(0.02 * math.hypot(40, 56))))
                for m in (target == label, seen == label)
            ]
            both[label] += (edges[0] & edges[1]).sum()
            either[label] += (edges[0] | edges[1]).sum()
    assert list(report.boundary_iou_by_class.values()) == pytest.approx((both / either).tolist())
    assert report.boundary_iou == pytest.approx((both / either).mean())
    without = evaluate(Brightness(), dataset, boundary_ratio=None)
    assert without.boundary_iou is None
    assert without.as_dict()["boundary_iou_by_class"] is None


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("readers", [1, 4])
def test_batches_and_readers_change_nothing(batch_size: int, readers: int) -> None:
    class Mixed(Images):
        def load(self, index: int):
            self.size = (40, 56) if index % 3 else (48, 33)
            return super().load(index)

    expected = evaluate(Brightness(), Mixed(7), readers=1)
    if readers == 1:  # `size` is shared by the threads of this toy
        found = evaluate(Brightness(), Mixed(7), batch_size=batch_size, readers=1)
        np.testing.assert_array_equal(found.confusion, expected.confusion)
    np.testing.assert_array_equal(
        evaluate(Brightness(), Images(7), batch_size=batch_size, readers=readers).confusion,
        evaluate(Brightness(), Images(7)).confusion,
    )


def test_windows_flip_and_scale_agree_with_the_whole_for_a_local_model() -> None:
    dataset = Images(2, size=(70, 100))
    whole = evaluate(Brightness(), dataset)
    for options in (
        {"mode": "slide", "tile": 48, "overlap": 16},
        {"mode": "slide", "tile": 32, "overlap": 0.5, "batch_size": 4},
        {"flip": True},
    ):
        np.testing.assert_array_equal(evaluate(Brightness(), dataset, **options).confusion, whole.confusion)
    scaled = evaluate(Brightness(), dataset, scales=(0.5, 1.0))
    assert scaled.miou != whole.miou
    assert scaled.options["protocol"] == "multi-scale (0.5, 1), whole image"
    slide = evaluate(Brightness(), dataset, mode="slide", tile=48, overlap=0.25, flip=True)
    assert slide.options["protocol"] == "single scale + flip, slide, windows of 48 px with 25% overlap"


def test_scores_are_taken_at_the_labels_resolution() -> None:
    class Blocks(Images):
        """Left half one class, right half another: nothing is lost by making it smaller."""

        def load(self, index: int):
            target = np.zeros((64, 96), np.uint8)
            target[:, 48:] = 2
            return Image.fromarray(np.repeat((target * 63 + 20)[..., None], 3, -1)), target

    model = Brightness()
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    model.preprocessing = Preprocessing((0.0,) * 3, (1.0,) * 3, long_side=48)
    # the hook is copied with the model, and its list with it: read the sizes by a model that cannot be copied
    model.deploy = lambda: model.eval()  # type: ignore[method-assign]
    report = evaluate(model, Blocks(1))
    assert sizes == [(32, 48)]
    assert report.pixels == 64 * 96
    assert report.iou["road"] > 0.95
    assert report.iou["sky"] > 0.95
    assert math.isnan(report.iou["tree"]) or report.iou["tree"] == 0  # only the blurred seam can be called tree


def test_one_sigmoid_logit_scores_two_classes() -> None:
    for names in (("background", "person"), ("person",)):
        dataset = Images(2, names=names)
        report = evaluate(Brightness(labels=2, channels=1), dataset)
        assert report.classes == ("background", "person")
        np.testing.assert_array_equal(report.confusion, by_hand(dataset))


def test_void_images_count_nowhere() -> None:
    report = evaluate(Brightness(), Images(2, void=1.1))
    assert report.pixels == 0
    assert report.void == 2
    assert math.isnan(report.miou)
    assert report.worst == []
    assert any("no image has a labelled pixel" in note for note in report.notes)
    assert json.loads(report.json())["miou"] is None  # JSON has no NaN


def test_false_alarms_count_images_that_do_not_hold_the_class() -> None:
    class Alarming(Images):
        def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
            target = np.zeros(self.size, np.uint8)
            shown = target.copy()
            if index == 0:
                target[0], shown[0] = 2, 2
            if index == 1:
                shown[:8] = 2  # seen, and not there
            if index == 2:
                shown[0, :2] = 2  # too little to be seen
            return Image.fromarray(np.repeat((shown * 63 + 20).astype(np.uint8)[..., None], 3, -1)), target

    report: Report = evaluate(Brightness(), Alarming(4))
    rates = list(report.false_alarms.values())
    assert math.isnan(rates[0])  # every image holds it
    assert rates[1:] == [0, pytest.approx(1 / 3), 0]
    assert report.columns()[:5] == ("class", "IoU", "Acc", "boundary IoU", "false alarms")


def test_nothing_is_kept_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tally holds is as large after 4 images as after 60, and no image is read much before it is scored."""
    tallies: list[Tally] = []

    class Watched(Tally):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            tallies.append(self)

    monkeypatch.setattr(score_module, "Tally", Watched)
    for count in (4, 60):
        dataset = Images(count)
        ahead = []
        evaluate(
            Brightness(),
            dataset,
            worst=3,
            readers=2,
            progress=lambda done, _, d=dataset, a=ahead: a.append(d.loads - done),
        )
        assert max(ahead) <= 3
    small, large = (deep_size(tally) for tally in tallies)
    assert large == small
    assert len(tallies[1].worst) == 3


def deep_size(thing: object, seen: set[int] | None = None) -> int:
    """Bytes of arrays and tensors that can be reached."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, Tensor | np.ndarray):
        return thing.nbytes
    if isinstance(thing, dict):
        return sum(deep_size(v, seen) for v in thing.values())
    if isinstance(thing, list | tuple | set):
        return sys.getsizeof(thing) + sum(deep_size(v, seen) for v in thing)
    return deep_size(vars(thing), seen) if hasattr(thing, "__dict__") else 0


def test_pictures_and_logits_are_let_go() -> None:
    """However many images there are, only those alive that are being scored or read ahead."""
    pictures: list[weakref.ref[Image.Image]] = []
    logits: list[weakref.ref[Tensor]] = []

    class Watched(Images):
        def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
            picture, target = super().load(index)
            pictures.append(weakref.ref(picture))
            return picture, target

    class WatchedModel(Brightness):
        def deploy(self) -> nn.Module:
            return self

        def forward(self, image: Tensor) -> Tensor:
            result = super().forward(image)
            logits.extend([weakref.ref(result), weakref.ref(image)])
            return result

    alive: list[tuple[int, int]] = []

    def count(done: int, total: int) -> None:
        alive.append(tuple(sum(r() is not None for r in refs) for refs in (pictures, logits)))  # type: ignore[arg-type]

    evaluate(WatchedModel(), Watched(40), worst=3, readers=2, batch_size=2, flip=True, progress=count)
    assert len(pictures) == 40
    assert max(p for p, _ in alive) <= 2 + 2 + 2  # scored, waiting, being read
    assert max(n for _, n in alive) <= 4
    assert alive[-1][1] <= alive[0][1]


def test_worst_images_are_the_worst() -> None:
    class Fading(Images):
        def load(self, index: int):
            self.noise = [0.1, 0.9, 0.3, 0.7, 0.5][index]
            return super().load(index)

    report = evaluate(Brightness(), Fading(5), worst=3, readers=1)
    assert [w.index for w in report.worst] == [1, 3, 4]
    assert [w.miou for w in report.worst] == sorted(w.miou for w in report.worst)
    panels = report.worst[0].panels(report.palette)
    assert list(panels) == ["image", "target", "prediction", "errors"]
    target, palette = report.worst[0].target, np.array(report.palette, np.uint8)
    np.testing.assert_array_equal(np.array(panels["target"])[target != 255], palette[target[target != 255]])
    errors = np.array(panels["errors"]).astype(int)
    wrong = (report.worst[0].prediction != target) & (target != 255)
    assert (errors[wrong][:, 0] > errors[wrong][:, 1]).all()  # red
    assert (errors[~wrong][:, 0] == errors[~wrong][:, 1]).all()  # grey
    with pytest.raises(ValueError, match="worst is -1"):
        Worst(-1)


def test_image_score_ignores_classes_that_only_the_prediction_has() -> None:
    counts = torch.zeros(3, 3, dtype=torch.int64)
    counts[0, 0], counts[0, 2] = 99, 1
    assert image_miou(counts) == pytest.approx(0.99)
    assert image_miou(torch.zeros(3, 3)) is None


def test_classes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gives 3 classes .*data have 4 \(road, tree, sky, car\)"):
        evaluate(Brightness(channels=3), Images(1))
    with pytest.raises(ValueError, match="num_classes=4"):
        evaluate(Brightness(channels=6), Images(1))
    with pytest.raises(ValueError, match="num_classes is 3, but the data have 4"):
        evaluate(Brightness(), Images(1), num_classes=3)
    with pytest.raises(ValueError, match="gives 1 classes"):
        evaluate(Brightness(channels=1), Images(1))


def test_extra_logits_are_left_out_when_said_so_or_named_void() -> None:
    dataset = Images(2)
    model = Brightness(channels=6)
    report = evaluate(model, dataset, num_classes=4)
    np.testing.assert_array_equal(report.confusion, by_hand(dataset))
    assert any("first 4 of the model's 6 logits" in note for note in report.notes)
    model = Brightness(channels=5)
    model.classes = (*NAMES, "unlabelled")
    report = evaluate(model, dataset)
    np.testing.assert_array_equal(report.confusion, by_hand(dataset))
    assert any("'unlabelled', is left out" in note for note in report.notes)


def test_same_names_in_another_order_are_matched() -> None:
    match = match_classes(4, ("Car", "road", "Sky", "tree"), NAMES, default_palette(4))
    assert match.select == (1, 3, 2, 0)
    logits = torch.arange(4.0).view(1, 4, 1, 1)
    assert match.logits(logits).flatten().tolist() == [1, 3, 2, 0]
    differing = match_classes(4, ("street", "tree", "sky", "car"), NAMES, default_palette(4))
    assert differing.select is None
    assert "0: 'street' and 'road'" in differing.notes[0]


def test_other_label_numbers_are_found() -> None:
    pytest.importorskip("scipy")

    class Shifted(Brightness):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image).roll(1, 1)

    report = evaluate(Shifted(), Images(2, noise=0.05))
    assert report.miou < 0.1
    assert any("numbered differently" in note and "'tree' as 'road'" in note for note in report.notes)
    order, reached = best_renumbering(report.confusion) or ([], 0.0)
    assert order == [1, 2, 3, 0]
    assert reached == pytest.approx(evaluate(Brightness(), Images(2, noise=0.05)).miou)
    assert evaluate(Brightness(), Images(2)).notes == []


def test_a_model_that_knows_nothing_is_not_called_renumbered() -> None:
    confusion = np.zeros((5, 5), np.int64)
    confusion[:, 0] = 100  # everything is called class 0
    warning = label_warning(confusion, 0.04, [f"c{i}" for i in range(5)])
    assert warning is not None
    assert "preprocessing" in warning
    assert label_warning(confusion, math.nan, ["a"] * 5) is None


def test_wrong_options_and_bad_logits_say_so() -> None:
    class Broken(Brightness):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) * math.nan

    with pytest.raises(ValueError, match="not finite on image_0000"):
        evaluate(Broken(), Images(2))
    with pytest.raises(ValueError, match="the data set is empty"):
        evaluate(Brightness(), Images(0))
    with pytest.raises(ValueError, match='give "whole" or "slide"'):
        evaluate(Brightness(), Images(1), mode="tiles")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit is 0"):
        evaluate(Brightness(), Images(1), limit=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        evaluate(Brightness(), Images(1), batch_size=0)
    with pytest.raises(ValueError, match="engine is 'tensorflow'"):
        evaluate(Brightness(), Images(1), engine="tensorflow")
    four = Brightness()
    four.in_channels = 4
    with pytest.raises(ValueError, match="takes 4 channels"):
        evaluate(four, Images(1))


def test_the_callers_model_is_left_as_it_was() -> None:
    model = Brightness().train()
    evaluate(model, Images(1), limit=1)
    assert model.training


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources, self.text, self.open = [], [], []

    def handle_starttag(self, tag, attrs) -> None:
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text.append(data)


def test_the_report_stands_in_one_page_and_one_json(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    dataset = Images(4, names=("road", "<b>tree</b>", "sky & sea", "car"))
    report = evaluate(Brightness(), dataset, worst=2, output=tmp_path / "report")
    folder = tmp_path / "report"
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    worst = [f"worst/{i + 1:02d}_{w.name}.png" for i, w in enumerate(report.worst)]
    assert files == ["confusion.png", "report.html", "report.json", *worst]
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.sources) == 1 + 2 * 4
    assert all(source.startswith("data:image/") for source in page.sources)  # needs no other file
    shown = "".join(page.text)
    assert f"{100 * report.miou:.2f}" in shown
    assert "<b>tree</b>" in shown  # as text: escaped
    assert "<b>" not in text
    numbers = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert numbers["miou"] == pytest.approx(report.miou)
    assert numbers["iou"]["sky & sea"] == pytest.approx(report.iou["sky & sea"])
    assert numbers["confusion"] == report.confusion.tolist()
    assert {
        "boundary_iou",
        "images",
        "seconds",
        "macc",
        "aacc",
        "model",
        "data",
        "options",
        "machine",
        "versions",
    } <= set(numbers)
    with Image.open(folder / "confusion.png") as plot:
        assert plot.format == "PNG"
        assert min(plot.size) > 300


def test_a_renewed_report_has_its_own_pictures_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    evaluate(Brightness(), Images(4), worst=3, output=tmp_path)
    (tmp_path / "worst" / "mine.png").write_bytes(b"of somebody else")
    report = evaluate(Brightness(), Images(2), worst=2, output=tmp_path)
    names = {path.name for path in (tmp_path / "worst").iterdir()}
    assert names == {"mine.png", *(f"{i:02d}_{image.name}.png" for i, image in enumerate(report.worst, 1))}


def test_a_missing_matplotlib_is_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    dataset = Images(1)
    with pytest.raises(ImportError, match=r"segmentarium\[train\]"):
        evaluate(Brightness(), dataset, output=tmp_path)
    assert dataset.loads == 0


def test_the_table_speaks_in_percent() -> None:
    report: Report = evaluate(Brightness(), Images(1, noise=0.0, void=0.0))
    assert report.rows()[0][:4] == ("road", "100.00", "100.00", "100.00")
    assert report.summary().startswith("mIoU 100.00   mAcc 100.00   aAcc 100.00   boundary IoU 100.00\n1 images in ")
    assert report.table().row_count == 4


def test_brackets_in_a_name_are_no_style() -> None:
    report = evaluate(Brightness(), Images(1, names=("crack [mm]", "closed [/b]", "sky", "car")))
    assert [line.split("  ")[0] for line in plain(report.table())[1:3]] == ["crack [mm]", "closed [/b]"]
