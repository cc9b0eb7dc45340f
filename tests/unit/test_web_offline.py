"""The page's files, and what `export-web` says where something is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from segmentarium.cli.main import main
from segmentarium.web.assets import assets
from segmentarium.web.offline import RUNTIME, export_web, runtime_files


def test_each_mode_has_what_it_imports_and_no_more() -> None:
    for mode in ("server", "offline"):
        files = assets(mode)  # type: ignore[arg-type]
        scripts = {path: content.decode() for path, (content, _) in files.items() if path.endswith(".js")}
        wanted = {
            name for text in scripts.values() for name in re.findall(r'^import .* from "\.(/\w+\.js)"', text, re.M)
        }
        assert wanted <= set(files)
        assert f"/{mode}.js" in files
    assert "/server.js" not in assets("offline")
    assert "/docs" not in assets("offline")
    assert json.loads(assets("server")["/config.json"][0]) == {"mode": "server"}


def test_the_page_names_no_other_host() -> None:
    for mode in ("server", "offline"):
        for path, (content, _) in assets(mode).items():  # type: ignore[arg-type]
            addresses = re.findall(r"(?:https?:)?//[\w-]+\.[\w.-]+", content.decode())
            assert set(addresses) <= {"http://www.w3.org", "http://127.0.0.1"}, (
                path
            )  # the name of SVG, and where it may be served


def test_a_model_without_a_person_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export-web", str(tmp_path / "page"), "--models", "street", "--runtime", str(tmp_path)]) == 2
    assert "model street: there is nothing to cut out" in capsys.readouterr().err
    assert not (tmp_path / "page" / "config.json").exists()


def test_an_incomplete_runtime_is_named(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / RUNTIME[0]).touch()
    with pytest.raises(FileNotFoundError, match=rf"{RUNTIME[1]}, {RUNTIME[2]} is missing"):
        runtime_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="is missing"):
        export_web({"person": "person"}, tmp_path / "page", runtime=tmp_path)


def test_npm_is_needed_and_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="npm, which would fetch it, is not installed"):
        runtime_files()
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'no route to anywhere' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(RuntimeError, match="npm cannot fetch onnxruntime-web: no route to anywhere"):
        runtime_files()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == []


def test_npm_fetches_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path / "cache"))
    npm = tmp_path / "npm"
    lines = [f"echo data > node_modules/onnxruntime-web/dist/{name}" for name in RUNTIME]
    script = ["#!/bin/sh", "set -e", "test -f package.json", "/bin/mkdir -p node_modules/onnxruntime-web/dist", *lines]
    npm.write_text("\n".join(script) + "\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    first = runtime_files()
    npm.unlink()
    assert runtime_files() == first
    assert [path.read_text() for path in first] == ["data\n"] * 3
