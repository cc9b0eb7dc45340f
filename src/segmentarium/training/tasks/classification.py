"""Classification: pictures with one class each, scored as `segmentarium evaluate` scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from PIL import Image, ImageDraw

from segmentarium.contracts import Classifier
from segmentarium.data import (
    ClassificationDataset,
    MixPictures,
    TrainingStream,
    classification_train_transform,
    picture_size,
)
from segmentarium.data.classification import changes
from segmentarium.data.label_maps import LabelMaps, LabelMapView
from segmentarium.data.token_labels import token_targets
from segmentarium.evaluation.classification import Picture, PictureScoring
from segmentarium.files import write_png
from segmentarium.inference.classifier import seen_square
from segmentarium.inference.network import Network
from segmentarium.losses import LabelCrossEntropy, TokenLabelCrossEntropy, build_label_loss
from segmentarium.preprocessing import SMALLEST
from segmentarium.training.loaders import PreparedLoader, TimedLoader, endless, open_dataset, worker_count
from segmentarium.training.options import TrainingOptions
from segmentarium.training.preflight import LOOKED_AT
from segmentarium.training.tasks import Evaluation
from segmentarium.training.tasks.labelled import labelled_model

LARGEST = 224  # side of the square where neither the options nor the model say one
PICTURES, SHOWN = 8, 128  # drawn at each evaluation, and pixels of their sides


class ClassificationTask:
    """Squares {"image" (B, 3, S, S), "label" (B,) int64, or shares (B, K) of mixtures} for a Classifier; top-1 decides."""

    best_key, best_name = "top1", "top-1"
    shares = True
    train_set: ClassificationDataset
    val_set: ClassificationDataset

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options
        self.train_set, self.val_set = (
            open_dataset(options, split) for split in (options.train_split, options.val_split)
        )
        info = self.train_set.info
        if not isinstance(self.train_set, ClassificationDataset):
            raise ValueError(
                f"data set {options.data!r} has a class for each pixel, none for each picture; give --data imagefolder"
            )
        if info.num_classes == 1:
            raise ValueError(
                f"data set {info.name!r} has one class, {info.classes[0]!r}: there is nothing to tell apart"
            )
        self.crop_size = (options.size or LARGEST,) * 2  # `model` knows better

    def check(self) -> Iterator[str]:
        for dataset in (self.train_set, self.val_set):
            for index in range(min(LOOKED_AT, len(dataset))):
                dataset.load(index)
        missing = [
            name for name, count in zip(self.train_set.info.classes, self.train_set.counts(), strict=True) if not count
        ]
        if missing:
            yield f"warning: no picture in {self.options.train_split!r} of {', '.join(missing[:6])}: it cannot be learnt"

    def model(self) -> Classifier:
        options = self.options
        model = labelled_model(options, self.train_set.info)
        assert isinstance(model, Classifier)
        size = options.size or (model.fixed_size and model.fixed_size[0])
        if size is None and options.weights is not None:
            size = model.preprocessing.crop_size
        size, ratio = seen_square(
            model, size or max(picture_size(self.train_set, LARGEST), SMALLEST), options.crop_ratio
        )
        model.preprocessing = replace(model.preprocessing, crop_size=size, crop_ratio=ratio)
        self.crop_size = (size, size)
        if options.label_smoothing:
            model.smooth_labels(options.label_smoothing)
        if options.loss is not None:
            self._replace_loss(model, options.loss)
        return model

    def _replace_loss(self, model: Classifier, name: str) -> None:
        """Every cross entropy of pictures becomes `build_label_loss(name)`, for the data's numbers of pictures."""
        options = self.options
        if name != "cross_entropy" and (options.mixup or options.cutmix or options.label_smoothing):
            raise ValueError(
                f"loss {name!r} takes one class a picture, no shares of classes: leave mixup, cutmix and label_smoothing out"
            )
        counts = self.train_set.counts()
        terms = [
            replace(term, loss=build_label_loss(name, counts)) if type(term.loss) is LabelCrossEntropy else term
            for term in model.objective
        ]
        if all(term.loss is old.loss for term, old in zip(terms, model.objective, strict=True)):
            raise ValueError(f"{options.model!r} has an objective of its own, which loss {name!r} cannot stand for")
        model.set_objective(*terms)

    def batches(self, model: Any, fabric: Fabric, micro_batch: int, step: int) -> TimedLoader:
        options = self.options
        if options.token_labels is not None:
            stream = TrainingStream(self.train_set, self._label_maps(model), options.seed)
            loader = endless(stream, options, fabric, micro_batch, step)
            return PreparedLoader(loader.loader, fabric, partial(self._with_targets, model))
        transform = classification_train_transform(
            self.crop_size[0],
            scale=options.area,
            flip=0.5 if options.flip else 0.0,
            rand_augment=options.rand_augment,
            magnitude=options.magnitude,
            jitter=options.jitter,
            erase=options.erase,
            mean=model.preprocessing.mean,
            std=model.preprocessing.std,
        )
        mix = None
        if options.mixup or options.cutmix:
            mix = MixPictures(self.train_set.info.num_classes, options.mixup, options.cutmix)
        stream = TrainingStream(self.train_set, transform, options.seed, 1.0 if mix else 0.0, mix)
        return endless(stream, options, fabric, micro_batch, step)

    def _label_maps(self, model: Classifier) -> LabelMapView:
        """The view of a picture with its label map.  ValueError for a network, or options, that have no use for it."""
        options, said = self.options, model.preprocessing
        if not any(isinstance(loss, TokenLabelCrossEntropy) for loss in model.losses.modules()):
            raise ValueError(
                f"{options.model} does not learn from label maps; leave token_labels out, or give an lvvit"
            )
        if options.mixup or options.cutmix:
            raise ValueError("mixup and cutmix mix pictures without their label maps; leave them out, MixToken mixes")
        assert options.token_labels is not None
        maps = LabelMaps(options.token_labels, self.train_set.info.classes)
        last = changes(options.rand_augment, options.magnitude, options.jitter, options.erase, said.mean, said.std)
        flip = 0.5 if options.flip else 0.0
        return LabelMapView(maps, self.crop_size[0], area=options.area, flip=flip, changes=last)

    def _with_targets(self, model: Classifier, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with targets (B, K, 2 + N) for its labels: of the picture, of the crop, and of each patch."""
        rows, columns = (-(-side // model.backbone.strides[-1]) for side in self.crop_size)
        rest = {key: value for key, value in batch.items() if key not in ("scores", "classes", "box")}
        targets = token_targets(
            batch["scores"],
            batch["classes"],
            batch["box"],
            batch["label"],
            self.train_set.info.num_classes,
            (rows, columns),
        )
        return {**rest, "label": targets}

    def _scoring(self, model: Any, fabric: Fabric) -> PictureScoring:
        return PictureScoring(model, partial(Network, model, "torch", "fp32", fabric.device), self.val_set)

    def evaluate(self, model: Any, fabric: Fabric, batch_size: int, stopped: Callable[[], bool]) -> Evaluation | None:
        scoring = self._scoring(model, fabric)
        mine = range(fabric.global_rank, len(self.val_set), fabric.world_size)
        readers = max(2, worker_count(self.options, fabric.world_size))
        for _ in scoring.run(mine, batch_size, readers):
            if stopped():
                return None
        scoring.tally.counts.all_reduce()
        found = scoring.tally.scores()
        accuracy = {name: None if value != value else value for name, value in found.pop("accuracy").items()}
        line = f"top-1 {100 * found['top1']:.2f}  top-5 {100 * found['top5']:.2f}  mAcc {100 * found['macc']:.2f}"
        row = {**found, **{f"accuracy {name}": value for name, value in accuracy.items()}}
        return Evaluation({**found, "accuracy": list(accuracy.values())}, row, line)

    def draw(self, model: Any, fabric: Fabric, path: Path) -> None:
        """What the model sees of a few pictures, spread over the split, and the class that it gives them; red: wrong."""
        scoring = self._scoring(model, fabric)
        places = torch.linspace(0, len(self.val_set) - 1, min(PICTURES, len(self.val_set))).long().unique().tolist()
        sheet = Image.new("RGB", (len(places) * SHOWN, SHOWN + 16), "white")
        pen = ImageDraw.Draw(sheet)
        for place, index in enumerate(places):
            picture: Picture = scoring.read(index)
            given = int(scoring.match.logits(scoring.network(picture.pixels[None])).argmax(1))
            image = Image.fromarray(picture.pixels.permute(1, 2, 0).numpy())
            sheet.paste(image.resize((SHOWN - 4, SHOWN)), (place * SHOWN, 0))
            colour = "black" if given == picture.label else "red"
            pen.text((place * SHOWN + 2, SHOWN + 2), model.classes[given][:20], colour)
        write_png(path, sheet)
