"""`segmentarium VERB …`.  A verb's module is imported when it is called, so that --help answers at once."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

# verb -> (module, one line)
VERBS = {
    "segment": ("segment", "masks, overlays and cut-outs of images, folders, videos or the webcam"),
    "batch": ("batch", "masks of millions of pictures, on this machine or a cluster; goes on where it stopped"),
    "classify": ("classify", "the class of each picture, with its probability, as JSON or CSV"),
    "keypoints": ("keypoints", "points with descriptors, or joints, of pictures, videos or the webcam"),
    "match": ("match", "which points of two pictures are the same, and what maps one to the other"),
    "portrait": ("portrait", "the person in front of a blur, a colour, an image or nothing: photos, videos, webcam"),
    "detect3d": ("detect3d", "boxes in point clouds, with the map of the place where there is one"),
    "train": ("train", "train a model on a data set or a folder of labelled images"),
    "pseudo-label": ("pseudo_label", "add what a trained model is sure of to a data set's labels"),
    "adapt": ("adapt", "points of pictures nobody labelled, to train a detector on: homographic adaptation"),
    "pretrain": ("pretrain", "a backbone that learns from pictures without labels: mae, beit, dvae"),
    "evaluate": ("evaluate", "score a model: mIoU, or top-1 of a classifier; per-class table, report"),
    "probe": ("probe", "what a backbone's features tell: nearest neighbours and a linear classifier on them"),
    "compare": ("compare", "several models under one budget: accuracy, latency and pictures on one page"),
    "export": ("export", "deploy form as torch.export, ONNX or OpenVINO, with measured parity"),
    "benchmark": ("benchmark", "latency, throughput, parameters, FLOPs and memory on this machine"),
    "check-data": ("check_data", "find what is wrong with a data set before training on it"),
    "serve": ("serve", "a page and an HTTP API on this machine: portraits and masks in the browser"),
    "export-web": ("export_web", "the page with the network inside it: plain files, no server that sees a picture"),
    "weights": ("weights", "published checkpoints by name: listed, fetched, kept"),
    "verify": ("verify", "published weights scored as published, beside the published value"),
    "inspect": ("inspect", "what a checkpoint is, what had to be assumed of it, and a file of ours made of it"),
    "load-check": ("inspect", "inspect by another name"),
    "models": ("models", "the registered models, and which networks stand on which backbones"),
}

MANY = 12  # options, from which on they are not repeated in the line of usage
WITHOUT_TORCH = ("models", "portrait")  # import it where a model needs it
LASTING = ("serve",)
WRITES_FILES = (
    "segment",
    "classify",
    "keypoints",
    "match",
    "portrait",
    "adapt",
    "detect3d",
    "evaluate",
    "probe",
    "export",
    "benchmark",
    "check-data",
    "export-web",
    "load-check",
    "inspect",
    "verify",
)


class Folded(argparse.RawTextHelpFormatter):
    """Lines as they were written, folded where the terminal is narrower."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (
            part
            for line in text.splitlines()  # examples, which are indented, stay as they can be typed
            for part in ([line] if line.startswith(" ") else textwrap.wrap(line, width - len(indent)) or [""])
        )
        return "\n".join(indent + line for line in lines)


def parser_for(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb; imports its module."""
    name, line = VERBS[verb]
    module = importlib.import_module(f"segmentarium.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"segmentarium {verb}",
        description=line[0].upper() + line[1:] + ".",
        epilog=examples(module),
        formatter_class=Folded,
    )
    module.add_arguments(parser)
    if verb in WRITES_FILES:  # `train` and `compare` know their own runs, and begin in no folder that holds another
        text = "replace files that are there, inputs too; without it they are refused"
        parser.add_argument("--overwrite", action="store_true", help=text)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if len(parser._actions) > MANY:  # a list of all of them is no usage
        given = [action for action in parser._actions if not action.option_strings]
        places = [f"{action.metavar or action.dest}{' …' if action.nargs == '+' else ''}" for action in given]
        parser.usage = " ".join(["%(prog)s", *places, "[options]"])
    parser.set_defaults(run=module.run)
    return parser


def examples(module: Any) -> str | None:
    """What a verb's help ends with: its module's EXAMPLES, a command each with what it does."""
    found: tuple[tuple[str, str], ...] = getattr(module, "EXAMPLES", ())
    lines = [f"  {command}" + (f"\n      {what}" if what else "") for command, what in found]
    return "\n".join(["examples:", *lines]) if found else None


def usage() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: segmentarium VERB …", "", "verbs:"]
    lines += [f"  {verb:<{width}}  {line}" for verb, (_, line) in VERBS.items()]
    lines += ["", "`segmentarium VERB --help` tells what a verb takes; `segmentarium --version` the version."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.  Exit codes: 0 done, 1 some input failed, 2 wrong usage or a stated error, 130 interrupted,
    141 nobody reads on, 143 ended by SIGTERM."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] in ("--version", "-V"):
        from segmentarium.version import __version__

        print(f"segmentarium {__version__}")
        return 0
    verb = words[0]
    if verb not in VERBS:
        from segmentarium.checks import did_you_mean

        print(f"segmentarium: no verb {verb!r}{did_you_mean(verb, list(VERBS))}\n\n{usage()}", file=sys.stderr)
        return 2
    from segmentarium.cli.memory import import_torch, keep_freed_memory, share_freed_memory
    from segmentarium.cli.progress import waiting
    from segmentarium.files import cache_folder
    from segmentarium.memory import memory_errors

    # matplotlib lists its fonts in the home folder, unless it is told where else
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    share_freed_memory() if verb in LASTING else keep_freed_memory()
    before = signal.getsignal(signal.SIGTERM)
    with suppress(ValueError):  # only the main thread may
        if before is signal.SIG_DFL:  # half-written files are removed on the way out
            signal.signal(signal.SIGTERM, _end)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] - file names that are no UTF-8
    logging.basicConfig(format="%(message)s")
    logging.getLogger("segmentarium").setLevel(logging.INFO)  # such as what fitted of another project's weights
    options = parser_for(verb).parse_args(words[1:])
    if verb not in WITHOUT_TORCH:
        with waiting("loading PyTorch"):
            import_torch()
    options.words = words  # what was typed, for pages that say how they were made
    try:
        with memory_errors():
            return options.run(options)
    except KeyboardInterrupt:
        print("segmentarium: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads what is printed has read enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, KeyError, TypeError, OSError, ImportError, MemoryError) as error:
        if "--debug" in words:
            raise
        from segmentarium.wording import said

        print(f"segmentarium {verb}: {said(error)}", file=sys.stderr)
        return 2
    finally:
        if before is signal.SIG_DFL:
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, before)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
