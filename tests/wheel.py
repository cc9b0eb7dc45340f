"""The wheel, as somebody else gets it: built, looked into, installed into empty environments, and used.

    python tests/wheel.py                     # without extras and with each alone: minutes, and some GB for a while
    python tests/wheel.py --extras none,web   # these alone

Prints a table.  Exit code 1 where something is not as it must be.  `tests/unit/test_wheel.py` looks at what a wheel would hold,
without building one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 40e6  # bytes of the wheel
PHOTO = ROOT / "docs" / "images" / "astronaut.jpg"
HEIC = ROOT / "tests" / "unit" / "turned.heic"

FOLDER = """
import numpy as np
from pathlib import Path
from PIL import Image
for number in range(60):
    for name, values in (("images", np.full((64, 64, 3), 4 * number)), ("masks", np.eye(64) > 0)):
        Path("data", name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(f"data/{name}/{number}.png")
Path("data", "classes.txt").write_text("ground\\nline\\n")
"""
QUICK = "model='pphumanseg', root='data', crop_size=(64, 64), batch_size=2, max_steps=1, workers=0, precision='32', output='run'"

# extra -> Python that needs it, and what it says where it has it; "": nothing, it ends well
NEEDS = {
    "train": (f"{FOLDER}import segmentarium as s\ns.train(s.TrainingOptions({QUICK}))", ""),
    "export": ("import segmentarium as s; s.export_model(s.load('person'), 'p.onnx', sizes=((64, 64),))", ""),
    "video": ("import segmentarium as s; list(s.predict('clip.mp4'))", "clip.mp4 cannot be read as a video"),
    "web": ("import segmentarium as s; s.serve({'nobody': 'nowhere'})", "no weights called 'nowhere'"),
    "large": ("from segmentarium.media.readers import LargePicture as L; assert L('photo.jpg').reads_in_rows", ""),
    "heic": ("import segmentarium as s; assert next(s.predict('photo.heic')).mask.shape == (96, 64)", ""),
    "scale": (
        "import segmentarium as s; r = s.batch('photo.jpg', 'person', 'b', address='local', kind='parquet'); assert r.done == 1",
        "",
    ),
    "int8": ("from segmentarium.runtimes import import_nncf as n; n().quantize", ""),
    "docs": ("import material, mkdocs, mkdocstrings", ""),
}
SAYS_SO = (
    "train",
    "export",
    "video",
    "web",
    "heic",
    "scale",
    "int8",
)  # whose absence is an error, and not a slower way


def run(command: list[str], folder: Path, seconds: int = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)


def contents(wheel: Path) -> list[str]:
    """What is wrong with what a wheel holds."""
    with zipfile.ZipFile(wheel) as file:
        names = {info.filename: info.file_size for info in file.infolist()}
    wrong = (
        []
        if wheel.stat().st_size < LARGEST
        else [f"{wheel.stat().st_size / 1e6:.1f} MB are more than {LARGEST / 1e6:.0f}"]
    )
    for needed in (
        "py.typed",
        "models.json",
        "weights/published.tsv",
        "weights/files/person.onnx",
        "web/static/index.html",
    ):
        if f"segmentarium/{needed}" not in names:
            wrong.append(f"{needed} is missing")
    return wrong + [
        f"{name} does not belong into it" for name in names if name.split("/")[0] in ("tests", "docs", "benchmarks")
    ]


def check(wheel: Path, extra: str, folder: Path) -> list[str]:
    """What is wrong in an environment with one extra, or with "none"."""
    python = folder / "env" / "bin" / "python"
    made = run(["uv", "venv", "--quiet", "--python", sys.executable, str(folder / "env")], folder)
    wanted = f"{wheel}[{extra}]" if extra != "none" else str(wheel)
    made = (
        made if made.returncode else run(["uv", "pip", "install", "--quiet", "--python", str(python), wanted], folder)
    )
    if made.returncode:
        return [f"cannot be installed: {made.stderr.strip()[-300:]}"]
    (folder / "photo.jpg").write_bytes(PHOTO.read_bytes())
    (folder / "photo.heic").write_bytes(HEIC.read_bytes())
    (folder / "clip.mp4").write_bytes(b"no clip")
    wrong = []
    command = [
        str(python.with_name("segmentarium")),
        "portrait",
        "photo.jpg",
        "--background",
        "transparent",
        "--out",
        "cut.png",
    ]
    done = run(command, folder)  # README's first
    if done.returncode or not (folder / "cut.png").is_file():
        wrong.append(f"README's first command: {done.stderr.strip()[-300:]}")
    for name in SAYS_SO if extra == "none" else (extra,):
        code, wanted = NEEDS[name]
        found = run([str(python), "-c", code], folder)
        said = (found.stdout + found.stderr).strip()
        if extra == "none" and f"segmentarium[{name}]" not in said:
            wrong.append(f"without {name}, nothing names it: {said[-200:]}")
        if extra != "none" and ((wanted not in said) if wanted else found.returncode):
            wrong.append(f"with {name}: {said[-300:]}")
    return wrong


def main() -> int:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--extras", default=",".join(["none", *extras]), metavar="A,B")
    given = parser.parse_args().extras.split(",")
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        built = run(["uv", "build", "--quiet", "--wheel", "--out-dir", name, str(ROOT)], ROOT)
        if built.returncode:
            print(built.stderr)
            return 1
        (wheel,) = Path(name).glob("*.whl")
        rows = [("wheel", f"{wheel.stat().st_size / 1e6:.1f} MB", contents(wheel))]
        for extra in given:
            folder = Path(name) / extra
            folder.mkdir()
            rows.append((extra, "", check(wheel, extra, folder)))
            failed += bool(rows[-1][2])
            print(f"{extra:<8} {'; '.join(rows[-1][2]) or 'as it must be'}", flush=True)
        print(f"{rows[0][0]:<8} {rows[0][1]} {'; '.join(rows[0][2]) or 'as it must be'}")
        failed += bool(rows[0][2])
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
