"""No verb writes over an input or over a person's own file unless it is told to."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segmentarium
from segmentarium.cli.main import main
from segmentarium.files import check_targets, has_keys
from segmentarium.inference import Predictor
from tests.unit.inference_material import Brightness, picture
from tests.unit.portrait_material import moving, write_clip

SAYS = r"give another place \(--out\), or --overwrite"


@pytest.fixture
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = segmentarium.create_model("pphumanseg", num_classes=2)
    return str(segmentarium.save(model, tmp_path_factory.mktemp("weights") / "w.safetensors"))


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture()).save(path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# the rule ---------------------------------------------------------------------------------------------------------------


def test_links_and_other_letters_are_the_input(tmp_path: Path) -> None:
    source = photo(tmp_path / "photo.png")
    (tmp_path / "symbolic.png").symlink_to(source)
    os.link(source, tmp_path / "hard.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    for name in ("photo.png", "symbolic.png", "hard.png", "sub/../photo.png"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(FileExistsError, match=rf"{re.escape(name)} is the input itself; {SAYS}"):
            check_targets([tmp_path / name], [source], ours=True)
        check_targets([tmp_path / name], [source], overwrite=True)
    with pytest.raises(FileExistsError, match=r"dangling\.png is there already"):
        check_targets([tmp_path / "dangling.png"], [source])
    if (tmp_path / "PHOTO.PNG").exists():  # a file system that does not tell letters apart
        with pytest.raises(FileExistsError, match="is the input itself"):
            check_targets([tmp_path / "PHOTO.PNG"], [source], ours=True)
    check_targets([tmp_path / "new.png"], [source, None, tmp_path / "gone.png"])


def test_a_report_is_known_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert not has_keys(path, ("a",))
    for text, expected in (('{"a": 1, "b": 2}', True), ('{"b": 2}', False), ("[1]", False), ("no JSON", False)):
        path.write_text(text, encoding="utf-8")
        assert has_keys(path, ("a",)) is expected
    path.write_bytes(b"\xff\xfe\x00")
    assert not has_keys(path, ("a",))


# pictures and clips -----------------------------------------------------------------------------------------------------


def test_a_portrait_is_not_written_over_its_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "in" / "a.jpg")
    photo(tmp_path / "in" / "b.png")
    before = contents(tmp_path)
    folder = str(tmp_path / "in")
    for words in ([f"{folder}/a.jpg", "--out", f"{folder}/a.jpg"], [folder, "--out", folder]):
        assert main(["portrait", *words]) == 2
        assert re.search(rf"a\.jpg is the input itself; {SAYS}", capsys.readouterr().err)
        assert contents(tmp_path) == before
    assert main(["portrait", f"{folder}/a.jpg", "--out", f"{folder}/b.png"]) == 2
    assert re.search(rf"b\.png is there already; {SAYS}", capsys.readouterr().err)
    assert contents(tmp_path) == before
    assert main(["portrait", folder, "--out", folder, "--overwrite"]) == 0
    after = contents(tmp_path)
    assert after.keys() == {*before, "in/_inputs.json"}
    assert all(after[name] != before[name] for name in before)


def test_portraits_in_python(tmp_path: Path) -> None:
    source = photo(tmp_path / "a.png")
    clip = write_clip(tmp_path / "clip.mp4", moving(2))
    before = contents(tmp_path)
    portrait = segmentarium.Portrait("navy", views=False)
    for act in (
        lambda: portrait.file(source, source),
        lambda: portrait(picture()).save(source),
        lambda: portrait.clip(clip, clip),
    ):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            act()
    assert contents(tmp_path) == before
    portrait.clip(clip, clip, overwrite=True)
    portrait(picture()).save(source, overwrite=True)
    assert clip.read_bytes() != before["clip.mp4"]
    assert source.read_bytes() != before["a.png"]
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "000000.png").write_bytes(b"drawn by hand")
    with pytest.raises(FileExistsError, match=r"000000\.png is there already"):
        segmentarium.Portrait("transparent", views=False).clip(clip, tmp_path / "frames", alpha_format="png")


def test_masks_drawn_by_hand_stay(tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    """NAME_mask.png and NAME.json beside a picture are what labelling tools write."""
    photo(tmp_path / "a.png")
    (tmp_path / "a_mask.png").write_bytes(b"drawn by hand")
    write_clip(tmp_path / "b.mp4", moving(2))
    (tmp_path / "b.json").write_text("labelled", encoding="utf-8")
    before = contents(tmp_path)
    words = ["segment", str(tmp_path / "a.png"), str(tmp_path / "b.mp4"), "--model", weights, "--out", str(tmp_path)]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert re.search(rf"a_mask\.png is there already; {SAYS}", told)
    assert re.search(r"b\.json is there already", told)
    assert contents(tmp_path) == before
    assert main([*words, "--overwrite"]) == 0
    assert json.loads((tmp_path / "b.json").read_text("utf-8"))["frames"] == 2
    result = Predictor(Brightness())(tmp_path / "a.png")
    with pytest.raises(FileExistsError, match="is there already"):
        result.save(tmp_path, ("mask",))
    assert np.array_equal(Image.open(result.save(tmp_path, ("mask",), overwrite=True)[0]), result.mask)


def test_a_result_is_not_its_source(tmp_path: Path) -> None:
    source = photo(tmp_path / "a_overlay.png")
    before = source.read_bytes()
    with pytest.raises(FileExistsError, match="is the input itself"):
        Predictor(Brightness())(source).save(tmp_path, ("overlay",), name="a")
    assert source.read_bytes() == before


# reports and exports ----------------------------------------------------------------------------------------------------


def test_an_export_renews_its_own_files_alone(tmp_path: Path) -> None:
    model, place = Brightness(), tmp_path / "net.pt2"
    place.write_bytes(b"somebody's")
    with pytest.raises(FileExistsError, match=rf"net\.pt2 is there already; {SAYS}"):
        segmentarium.export_model(model, place, sizes=[(32, 32)])
    with pytest.raises(FileExistsError, match="is there already"):
        segmentarium.export.to_torch(model, place)
    assert place.read_bytes() == b"somebody's"
    segmentarium.export_model(model, place, sizes=[(32, 32)], overwrite=True)
    written = place.stat().st_mtime_ns
    segmentarium.export_model(model, place, sizes=[(32, 32)])  # the parity file beside it says whose it is
    assert place.stat().st_mtime_ns > written


def labelled(root: Path) -> Path:
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("dark\nbright\n", encoding="utf-8")
    for i in range(2):
        Image.fromarray(picture(64, 64)).save(root / "images" / f"{i}.png")
        Image.fromarray((picture(64, 64)[..., 0] > 127).astype(np.uint8)).save(root / "masks" / f"{i}.png")
    return root


def test_reports_are_renewed_and_other_files_are_not(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = labelled(tmp_path / "data"), tmp_path / "out"
    evaluate = ["evaluate", "--model", weights, "--data", "folder", "--root", str(root), "--split", "all"]
    check = ["check-data", str(root), "--out", str(out)]
    out.mkdir()
    for name, words in (
        ("report.json", check),
        ("contact_sheet.png", check),
        ("confusion.png", [*evaluate, "--out", str(out)]),
    ):
        (out / name).write_bytes(b"{}")
        assert main(words) == 2
        assert re.search(rf"{name} is there already; {SAYS}", capsys.readouterr().err)
        assert contents(out) == {name: b"{}"}
        (out / name).unlink()
    assert main(check) == 0
    assert main(check) == 0
    assert main([*evaluate, "--out", str(out)]) == 2  # the report of another verb
    assert "report.json is there already" in capsys.readouterr().err
    assert main([*evaluate, "--out", str(out), "--overwrite"]) == 0
    assert main([*evaluate, "--out", str(out), "--json", str(out / "report.json")]) == 0
    mask = root / "masks" / "0.png"
    before = mask.read_bytes()
    assert main([*evaluate, "--json", str(mask)]) == 2
    assert mask.read_bytes() == before


def test_a_benchmark_does_not_run_where_it_may_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "benchmark.csv").write_text("mine", encoding="utf-8")
    assert main(["benchmark", "pphumanseg", "--engines", "eager", "--out", str(tmp_path)]) == 2
    assert "benchmark.csv is there already" in capsys.readouterr().err
    assert (tmp_path / "benchmark.csv").read_text("utf-8") == "mine"


def test_a_page_is_not_written_over_another_site(tmp_path: Path) -> None:
    from segmentarium.web.offline import RUNTIME, export_web

    for name in RUNTIME:
        (tmp_path / "dist").mkdir(exist_ok=True)
        (tmp_path / "dist" / name).write_bytes(b"code")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"index\.html is there already"):
        export_web({"person": "person"}, tmp_path / "site", runtime=tmp_path)
    assert contents(tmp_path / "site") == {"index.html": b"mine"}
    with pytest.raises(FileExistsError, match="is the input itself"):
        export_web({"person": "person"}, tmp_path / "dist", runtime=tmp_path / "dist")
