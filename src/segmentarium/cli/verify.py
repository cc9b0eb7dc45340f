"""`segmentarium verify NAME --root DATA`: published weights scored by the published protocol, beside the published value."""

from __future__ import annotations

import argparse
from pathlib import Path

# data sets by their published names -> ours, by task where it matters
DATA = {
    "Cityscapes": {"": "cityscapes", "panoptic": "cityscapes_panoptic", "instance": "cityscapes_instances"},
    "ADE20K": {"": "ade20k", "panoptic": "ade20k_panoptic"},
    "VOC 2012 aug": {"": "voc"},
    "VOC 2012": {"": "voc"},
    "COCO-Stuff 164k": {"": "coco_stuff"},
    "CamVid": {"": "camvid"},
    "EG1800": {"": "eg1800"},
    "ImageNet-1k": {"": "imagenet"},
    "COCO 2017": {"panoptic": "coco_panoptic", "instance": "coco_instances"},
    "MS COCO": {"panoptic": "coco_panoptic", "instance": "coco_instances"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of published weights (`segmentarium weights`)")
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set that they were scored on")
    parser.add_argument("--data", help="how it is read, where its published name does not tell")
    parser.add_argument("--limit", type=int, help="stop after so many images")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(options: argparse.Namespace) -> int:
    from segmentarium.cli.main import parser_for
    from segmentarium.weights.published import named

    row = named(options.name)
    known = DATA.get(row.data_set, {})
    data = options.data or known.get(row.task, known.get(""))
    if data is None:
        raise ValueError(
            f"{row.name} was scored on {row.data_set!r}, for which there is no reader by that name; give --data"
        )
    words = ["--model", row.name, "--data", data, "--root", str(options.root)]
    words += ["--task", row.task] if row.task in ("panoptic", "instance") else []
    for name in ("limit", "device", "json"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name}", str(value)]
    code = parser_for("evaluate").parse_args(words)
    done = code.run(code)
    print(f"published: {row.value or 'no value'} {row.metric} ({row.note})")
    return done
