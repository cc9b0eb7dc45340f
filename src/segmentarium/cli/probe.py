"""`segmentarium probe`: nearest neighbours and a linear classifier on a backbone's features, with nothing of it trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", help="a pretraining's folder, or a file of any model that has a backbone")
    add("--backbone", help="or a backbone by name, e.g. vit_tiny or timm:resnet18, with --backbone-weights")
    add("--backbone-weights", help="its weights: a file, a run, timm:NAME; without them it is probed as drawn")
    add("--layout", help="key table of another project's checkpoint, where its keys alone do not tell")
    add("--data", default="imagefolder", help="imagefolder (default: a folder a class) or imagenet")
    add("--root", required=True, type=Path, help="where the data set lies")
    add("--train-split", default="train", help="split whose features are learnt from (default: train)")
    add("--split", help="split that is scored (default: test where there is one, else val)")
    add(
        "--size",
        type=int,
        help="side of the square it sees (default: as the weights say, else the pictures', up to 224)",
    )
    add("--batch-size", type=int, default=64, help="pictures to one call (default 64)")
    add("--device", help="cpu, cuda, cuda:1, …; default: the first GPU, else cpu")
    add("--seed", type=int, default=0, help="of the linear layer's batches, and of a backbone without weights")
    add("--json", type=Path, metavar="FILE", help="write the numbers there")


def run(options: argparse.Namespace) -> int:
    if (options.model is None) == (options.backbone is None):
        raise ValueError("give --model FILE, or --backbone NAME with --backbone-weights: one of the two")
    import torch

    from segmentarium.cli.progress import progress
    from segmentarium.data import ClassificationDataset, build_dataset, evaluation_split
    from segmentarium.evaluation import probe

    torch.manual_seed(options.seed)
    backbone, preprocessing, facts = _backbone(options)
    split = options.split or evaluation_split(options.data, options.root)
    sets = [build_dataset(options.data, options.root, part) for part in (options.train_split, split)]
    train, test = sets
    if not isinstance(train, ClassificationDataset) or not isinstance(test, ClassificationDataset):
        raise ValueError(f"data set {options.data!r} has no class for each picture; give --data imagefolder")
    if options.json is not None:
        from segmentarium.files import check_targets, has_keys

        known = has_keys(options.json, ("probe", "knn", "linear"))
        check_targets([options.json], overwrite=options.overwrite, ours=known)
    with progress("reading") as tell:
        report = probe(
            backbone,
            train,
            test,
            preprocessing=preprocessing,
            size=options.size,
            batch_size=options.batch_size,
            device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
            seed=options.seed,
            progress=tell,
        )
    report.backbone = facts
    report.data = {"name": train.info.name, "root": str(options.root), "train": options.train_split, "test": split}
    print(report.summary())
    if options.json is not None:
        report.write_json(options.json, overwrite=options.overwrite)
    return 0


def _backbone(options: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """The backbone, what its pictures must be, and where it comes from."""
    from segmentarium.backbones import create_backbone
    from segmentarium.cli.pretrain import backbone_called
    from segmentarium.contracts import Backbone
    from segmentarium.weights import load, load_part

    if options.model is not None:
        model = load(options.model, layout=options.layout)
        backbone = dict(model.named_children()).get("backbone")
        if not isinstance(backbone, Backbone):
            raise ValueError(f"{options.model} is {model.title}, which has no backbone whose features could be probed")
        return backbone, model.preprocessing, {"model": model.title, "file": str(options.model)}
    backbone = create_backbone(backbone_called(options.backbone))
    if options.backbone_weights is None:
        return backbone, None, {"model": options.backbone, "file": None}
    report = load_part(backbone, "", options.backbone_weights, layout=options.layout)
    return backbone, report.preprocessing, {"model": options.backbone, "file": str(options.backbone_weights)}
