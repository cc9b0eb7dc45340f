"""The page with the network inside it: a folder of plain files, after which no picture leaves the browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from segmentarium.export import export_model
from segmentarium.files import atomic_write, cache_folder, check_targets, has_keys
from segmentarium.inference.predictor import Predictor
from segmentarium.matting.finder import no_foreground
from segmentarium.web.assets import assets

# of the npm package onnxruntime-web: its loader for plain WebAssembly, and the network's arithmetic
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
LONG_SIDE = 512  # pixels, of models that do not say at which size they were trained
FETCH_SECONDS = 600


def export_web(
    models: Mapping[str, str], folder: str | Path, *, runtime: str | Path | None = None, overwrite: bool = False
) -> list[Path]:
    """Writes the page, the networks as ONNX (parity measured) and ONNX Runtime for browsers; returns the files.

    models   name on the page -> name or file of weights with a foreground class; the first one is the default
    runtime  an unpacked npm package onnxruntime-web; None: from the cache folder, fetched by npm the first time
    overwrite  files that are there are replaced; else only those of an earlier page, and FileExistsError for others

    Any web server can serve the folder; from file:// browsers load no modules.
    Raises ValueError for a model without a foreground, FileNotFoundError for an incomplete `runtime` and a missing npm,
    RuntimeError where npm fails.
    """
    predictors = {name: _checked(name, source) for name, source in models.items()}
    files = runtime_files(runtime)
    target = Path(folder)
    pages = {
        target / (address.lstrip("/") or "index.html"): content for address, (content, _) in assets("offline").items()
    }
    networks = {name: target / f"{_plain(name)}.onnx" for name in models}
    check_targets(
        [target / "config.json", *pages, *networks.values(), *(target / file.name for file in files)],
        files,
        overwrite=overwrite,
        ours=has_keys(target / "config.json", ("mode", "models")),
    )
    described, written = [], []
    for name, predictor in predictors.items():
        path = networks[name]
        export_model(predictor.model, path, overwrite=True)
        written += [path, path.with_name(f"{path.name}.parity.json")]
        described.append(_entry(name, path.name, predictor))
    for file in files:
        with atomic_write(target / file.name) as temporary:
            shutil.copyfile(file, temporary)
        written.append(target / file.name)
    written += [_write(path, content) for path, content in pages.items()]
    config = json.dumps({"mode": "offline", "models": described}, indent=1).encode()
    written.append(_write(target / "config.json", config))
    return written


def _checked(name: str, source: str) -> Predictor:
    predictor = Predictor(source, device="cpu")
    if predictor.foreground is None:
        raise ValueError(f"model {name}: {no_foreground(predictor.classes)}")
    if predictor.in_channels != 3:
        raise ValueError(f"model {name} takes {predictor.in_channels} channels; the page has pictures of 3")
    return predictor


def _entry(name: str, file: str, predictor: Predictor) -> dict[str, Any]:
    preprocessing = predictor.preprocessing
    return {
        "name": name,
        "file": file,
        "num_classes": predictor.model.num_classes,
        "foreground": predictor.foreground,
        "preprocessing": {
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "long_side": preprocessing.long_side or LONG_SIDE,
            "multiple": preprocessing.multiple or 1,
        },
        "licences": predictor.model.weights_header.get("licences", {}),
    }


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def _write(path: Path, content: bytes) -> Path:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def runtime_files(given: str | Path | None = None) -> list[Path]:
    """The files of onnxruntime-web that the page needs, from `given`, the cache folder, or npm, in this order."""
    if given is not None:
        return _complete(Path(given))
    package = cache_folder() / "onnxruntime-web"
    if not all((package / "dist" / name).is_file() for name in RUNTIME):
        _fetch(package)
    return _complete(package)


def _complete(package: Path) -> list[Path]:
    folder = package / "dist" if (package / "dist").is_dir() else package
    missing = [name for name in RUNTIME if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{package} is no unpacked npm package onnxruntime-web: {', '.join(missing)} is missing from {folder}"
        )
    return [folder / name for name in RUNTIME]


def _fetch(package: Path) -> None:
    """onnxruntime-web by npm, its needed files moved to `package` when all are there."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            "onnxruntime-web is not here yet and npm, which would fetch it, is not installed; "
            "install npm, or give the unpacked package with --runtime DIR"
        )
    package.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.parent) as name:
        folder = Path(name)
        needs = resources.files("segmentarium.web").joinpath("runtime", "package.json").read_bytes()
        (folder / "package.json").write_bytes(needs)
        command = [
            npm,
            "install",
            "--no-package-lock",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"npm did not fetch onnxruntime-web within {FETCH_SECONDS} seconds") from None
        if done.returncode:
            raise RuntimeError(f"npm cannot fetch onnxruntime-web: {done.stderr.strip()[-400:]}")
        files = _complete(folder / "node_modules" / "onnxruntime-web")
        (package / "dist").mkdir(parents=True, exist_ok=True)
        for file in files:
            file.replace(package / "dist" / file.name)
