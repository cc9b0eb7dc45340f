"""The command line itself: help that answers at once, errors in one line, exit codes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from segmentarium.cli import main as command_line
from segmentarium.cli.main import VERBS, main, parser_for, usage
from segmentarium.registry import list_models


def test_help_imports_no_torch() -> None:
    script = (
        "import sys; from segmentarium.cli.main import main; code = main(['--help']); "
        "print('heavy:', *(m for m in ('torch', 'numpy', 'PIL', 'rich') if m in sys.modules)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.rstrip().endswith("heavy:")
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_s_help_imports_no_torch(verb: str) -> None:
    script = (
        f"import sys; from segmentarium.cli.main import main\ntry: main([{verb!r}, '--help'])\n"
        "except SystemExit as done: print('code', done.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith(f"usage: segmentarium {verb}")
    assert done.stdout.rstrip().endswith("code 0 False")


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_explained(verb: str) -> None:
    parser = parser_for(verb)
    unexplained = [action.dest for action in parser._actions if not action.help and not action.choices]
    assert unexplained == []


def test_usage_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    from segmentarium import __version__

    assert main([]) == 2
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == 2 * (usage() + "\n")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"segmentarium {__version__}\n"


def test_an_unknown_verb_says_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "no verb 'trian'; did you mean 'train' or 'pretrain'?" in capsys.readouterr().err


def test_an_unknown_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["models", "--no-such-option"])
    assert done.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err


CPU_FULL = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes. "
    "Error code 12 (Cannot allocate memory)"
)
GPU_FULL = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.20 GiB"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("size is 0; give 1 or more"), 2, "segmentarium models: size is 0; give 1 or more\n"),
        (KeyError("no model is called 'x'"), 2, "segmentarium models: no model is called 'x'\n"),
        (FileNotFoundError("no weights at a.pth"), 2, "segmentarium models: no weights at a.pth\n"),
        (ImportError("this needs onnx"), 2, "segmentarium models: this needs onnx\n"),
        (RuntimeError(CPU_FULL), 2, "segmentarium models: there is not enough memory: PyTorch asked for 400 bytes\n"),
        (RuntimeError(GPU_FULL), 2, "segmentarium models: there is not enough memory: PyTorch asked for 2.50 GiB\n"),
        (KeyboardInterrupt(), 130, "segmentarium: interrupted\n"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_options: argparse.Namespace) -> int:
        raise error

    module = SimpleNamespace(add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(command_line.importlib, "import_module", lambda name: module)
    assert main(["models"]) == code
    assert capsys.readouterr().err == message


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_options: argparse.Namespace) -> int:
        raise RuntimeError("a bug")

    module = SimpleNamespace(add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(command_line.importlib, "import_module", lambda name: module)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["models"])


def test_models_lists_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "segformer_b[01]", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert [card["name"] for card in cards] == ["segformer_b0", "segformer_b1"]
    assert (cards[0]["venue"], cards[0]["year"]) == ("NeurIPS", 2021)
    assert (cards[0]["parameters"], cards[0]["flops"], cards[0]["flops_size"]) == (3.753, 5.519, [512, 512])
    assert main(["models", "--kind", "segmenter"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in list_models(family="realtime"))
    assert "resnet18" not in table.split()
    with pytest.raises(SystemExit):
        main(["models", "--kind", "backbone"])
    known = capsys.readouterr().err
    assert "classifier" in known
    assert "segmenter" in known


def test_a_reader_who_has_read_enough_is_no_error() -> None:
    script = "import sys; from segmentarium.cli.main import main; sys.exit(main(['models', '--json']))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.read(1)
        run.stdout.close()
        assert run.stderr is not None
        assert run.stderr.read() == b""
        assert run.wait(60) == 141


def test_listing_models_imports_no_torch() -> None:
    script = "import sys; from segmentarium.cli.main import main; main(['models']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.rstrip().endswith("False")


def test_models_tells_which_networks_stand_on_which_backbones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from segmentarium import composition

    asked: list[str] = []

    def combinations(pattern: str, **wishes: str | None) -> dict[str, dict[str, str]]:
        if pattern == "nothing":
            return {}
        asked.append(pattern)
        one = {
            "resnet18": "yes",
            "timm:vit": "it has no feature of stride 4",
            "mit_b0": "it has no feature of stride 4",
        }
        return {"pspnet": one, "fcn": {"resnet18": "yes", "timm:vit": "yes", "mit_b0": "another"}}

    monkeypatch.setattr(composition, "combinations", combinations)
    assert main(["models", "*net", "--combinations"]) == 0
    shown = capsys.readouterr().out
    assert asked == ["*net"]
    rows = [line.replace("│", "").split() for line in shown.splitlines()]
    assert ["pspnet", "yes", "(1)", "(1)"] in rows
    assert ["fcn", "yes", "yes", "(2)"] in rows
    assert shown.splitlines()[-2:] == ["(1) it has no feature of stride 4", "(2) another"]
    assert main(["models", "--combinations", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fcn"]["mit_b0"] == "another"
    assert main(["models", "nothing", "--combinations", "--kind", "mask"]) == 2
    assert "no network on a backbone fits 'nothing' with --kind mask" in capsys.readouterr().err


def test_a_list_of_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["models", "segformr*"], "no model fits 'segformr*'; `segmentarium models` lists all"),
        (["models", "segformer", "--kind", "mask"], "no model fits 'segformer' with --kind mask"),
        (["models", "segformr", "--kind", "mask"], "did you mean 'segformer'"),
        (["weights", "segformr"], "no published weights are called 'segformr'; did you mean 'segformer'"),
        (["weights", "segformr", "--check"], "no published weights are called 'segformr'"),
        (
            ["weights", "segformer", "--data-set", "cityscape-x"],
            "none fits --data-set cityscape-x; did you mean 'Cityscapes'",
        ),
        (["weights", "person"], "'person' lies in this package"),
        (["weights", "segformer", "--task", "panoptic", "--json"], "none fits --task panoptic"),
    ):
        assert main(words) == 2
        told = capsys.readouterr()
        assert (told.out, said in told.err) == ("", True)


def test_python_m_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "segmentarium", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("segmentarium ")
