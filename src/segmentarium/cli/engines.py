"""The options that say what computes."""

from __future__ import annotations

import argparse

from segmentarium.checks import ENGINES, PRECISIONS

AUTO = "auto: the fastest that is installed and agrees, measured once and remembered"
DEVICE = "of PyTorch, e.g. cpu or cuda:0 (default: a GPU if there is one)"


def add_engine(parser: argparse.ArgumentParser, *, default: str | None = "torch", told: str = AUTO) -> None:
    """--engine; `told` is its help."""
    parser.add_argument("--engine", default=default, choices=ENGINES, help=told)


def add_computing(parser: argparse.ArgumentParser, *, device: str = DEVICE) -> None:
    """--engine, --precision and --device; `device` is the last one's help."""
    add_engine(parser)
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="fp16: on GPUs (default: fp32)")
    parser.add_argument("--device", help=device)
