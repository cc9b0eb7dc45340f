"""Pretraining: pictures without labels, from which a backbone learns what a `Pretrainer` asks of it.

The pretrainer says what it takes beside the picture (`inputs`), draws that for one picture (`draw`), scores batches (`tally`,
`summary`) and shows what it makes of them (`reconstruct`).  Where its objective is held against visual tokens, a frozen tokenizer
makes them of each batch (options, `tokenizer`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import default_collate

from segmentarium.contracts import Backbone, Pretrainer
from segmentarium.data import PictureDataset, TrainingStream
from segmentarium.data.pretraining import PretrainingView
from segmentarium.files import write_png
from segmentarium.pretraining.dvae import DVAE, STRIDE
from segmentarium.registry import create_model, entry
from segmentarium.training.loaders import PreparedLoader, TimedLoader, endless, open_dataset, worker_count
from segmentarium.training.options import TrainingOptions
from segmentarium.training.preflight import LOOKED_AT
from segmentarium.training.tasks import Evaluation
from segmentarium.weights import load

SHOWN, SIDE = 8, 128  # pictures drawn at each evaluation, and pixels of their sides
TOKENS = "tokens"  # key of the batch under which an objective finds the tokenizer's
SIZE = 224  # side of the square where neither the options nor the model say one
EVALUATION = 2**31  # of the seeds that draw validation's masks, so that training has none of them


class PretrainingTask:
    """Squares {"image" (B, 3, S, S)} and what the model draws besides, of any data set's pictures; the model says what decides.

    Each validation picture is shown whole, its middle square, and always with the same mask.
    """

    best_key = best_name = ""  # the model's own, see `Pretrainer.best_score`
    shares = False
    train_set: PictureDataset
    val_set: PictureDataset

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options
        self.train_set, self.val_set = (
            open_dataset(options, split) for split in (options.train_split, options.val_split)
        )
        self.tokenizer: DVAE | None = None
        self.crop_size = (options.size or 0,) * 2  # `model` knows better

    def check(self) -> Iterator[str]:
        for dataset in (self.train_set, self.val_set):
            for index in range(min(LOOKED_AT, len(dataset))):
                dataset.load(index)
        if len(self.train_set) < self.options.batch_size:
            yield (
                f"warning: {len(self.train_set)} pictures are fewer than a batch of {self.options.batch_size}; "
                "each step sees some of them twice"
            )

    def model(self) -> Pretrainer:
        options = self.options
        model = create_model(
            options.model, weights=options.weights, backbone_weights=options.backbone_weights, **self._arguments()
        )
        if not isinstance(model, Pretrainer) or model.in_channels != 3:
            raise ValueError(f"{options.model!r} is no pretrainer of RGB pictures; leave in_channels out")
        self.best_key, self.best_name = model.best_score, model.best_score.replace("_", " ")
        if needs_tokens(model) != (self.tokenizer is not None):
            raise ValueError(
                f"{options.model} learns the tokens of a tokenizer; give --tokenizer, a trained dvae's run or file"
                if self.tokenizer is None
                else f"{options.model} learns no tokens, so that it has no use for a tokenizer; leave it out"
            )
        size = options.size or (model.fixed_size and model.fixed_size[0]) or model.preprocessing.crop_size or SIZE
        patch = _patch(model)
        if size % patch or (model.fixed_size or (size, size)) != (size, size):
            taken = "×".join(map(str, model.fixed_size)) if model.fixed_size else f"whole patches of {patch} pixels"
            raise ValueError(f"size is {size}, but {options.model} takes {taken}; give another --size")
        given = {"mean": options.mean, "std": options.std}
        known = {key: value for key, value in given.items() if value is not None}
        model.preprocessing = replace(model.preprocessing, crop_size=size, crop_ratio=1.0, **known)
        self.crop_size = (size, size)
        return model

    def _arguments(self) -> dict[str, Any]:
        """The model's, with tables of positions for the size that it is to see, and a vocabulary as large as the tokenizer's."""
        options, arguments = self.options, dict(self.options.model_arguments)
        found = entry(options.model.partition(".")[0])
        backbone = arguments.get("backbone", found.arguments.get("backbone"))
        inner = arguments.get("backbone_arguments") or {}
        if isinstance(backbone, str) and options.size and entry(backbone).takes("image_size"):
            arguments["backbone_arguments"] = {"image_size": options.size, **inner}
        if options.tokenizer is not None:
            self.tokenizer = _tokenizer(options.tokenizer)
            if found.takes("vocabulary"):
                arguments.setdefault("vocabulary", self.tokenizer.vocabulary)
        return arguments

    def _view(self, model: Pretrainer, **changes: Any) -> PretrainingView:
        options, said = self.options, model.preprocessing
        token_size = None
        if self.tokenizer is not None:
            token_size = self.crop_size[0] // _patch(model) * STRIDE
        values: dict[str, Any] = {
            "area": options.area,
            "flip": 0.5 if options.flip else 0.0,
            "jitter": options.jitter,
            "mean": said.mean,
            "std": said.std,
            "token_size": token_size,
            "draw": model.draw,
        }
        return PretrainingView(self.crop_size[0], **{**values, **changes})

    def batches(self, model: Any, fabric: Fabric, micro_batch: int, step: int) -> TimedLoader:
        stream = TrainingStream(self.train_set, self._view(model), self.options.seed)
        loader = endless(stream, self.options, fabric, micro_batch, step)
        if self.tokenizer is None:
            return loader
        self.tokenizer.to(fabric.device)
        return PreparedLoader(loader.loader, fabric, self._with_tokens)

    def _with_tokens(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with the visual tokens (B, N) of its pictures, int64."""
        if self.tokenizer is None:
            return batch
        image = self.tokenizer.preprocessing.normalise(batch["token_image"])
        rest = {key: value for key, value in batch.items() if key != "token_image"}
        with torch.no_grad():
            return {**rest, TOKENS: self.tokenizer.tokens(image).flatten(1)}

    def _shown(self, model: Pretrainer, fabric: Fabric, places: Sequence[int], readers: int) -> dict[str, Any]:
        """A batch of validation pictures, each always the same."""
        view = self._view(model, area=None, flip=0.0, jitter=0.0)

        def see(index: int) -> dict[str, Any]:
            return view.of(self.val_set.sample(index), np.random.default_rng((EVALUATION, index)))

        with ThreadPoolExecutor(readers) as pool:
            batch = default_collate(list(pool.map(see, places)))
        return self._with_tokens(fabric.to_device(batch))

    @torch.inference_mode()
    def evaluate(self, model: Any, fabric: Fabric, batch_size: int, stopped: Callable[[], bool]) -> Evaluation | None:
        """The model's own scores, of every validation picture."""
        mine = range(fabric.global_rank, len(self.val_set), fabric.world_size)
        readers = max(2, worker_count(self.options, fabric.world_size))
        sums: dict[str, Tensor] = {}
        # a process without a picture looks at the first, which counts for nothing, so that all know the names of the sums
        for places in [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)] or [range(1)]:
            if stopped():
                return None
            batch = self._shown(model, fabric, places, readers)
            outputs = model.forward_train(*(batch[key] for key in model.inputs))
            for name, value in model.tally(outputs, batch).items():
                sums[name] = sums.get(name, 0) + (value if mine else torch.zeros_like(value))
        scores = model.summary({name: _summed(fabric, value) for name, value in sums.items()})
        line = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items())
        return Evaluation(scores, scores, line)

    @torch.inference_mode()
    def draw(self, model: Any, fabric: Fabric, path: Path) -> None:
        """A column for each of a few validation pictures, spread over the split: what the model reconstructs, row by row."""
        places = torch.linspace(0, len(self.val_set) - 1, min(SHOWN, len(self.val_set))).long().unique().tolist()
        batch = self._shown(model, fabric, places, 2)
        outputs = model.forward_train(*(batch[key] for key in model.inputs))
        paints = [self.tokenizer] if self.tokenizer is not None and self.tokenizer.decoder is not None else []
        rows = model.reconstruct(outputs, batch, *paints)
        sheet = Image.new("RGB", (len(places) * (SIDE + 4), len(rows) * (SIDE + 16)), "white")
        pen = ImageDraw.Draw(sheet)
        for row, (name, pictures) in enumerate(rows.items()):
            pen.text((2, row * (SIDE + 16) + 1), name, "black")
            pixels = (pictures.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            for column, picture in enumerate(pixels):
                shown = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
                sheet.paste(shown, (column * (SIDE + 4), row * (SIDE + 16) + 14))
        write_png(path, sheet)


def _tokenizer(source: str) -> DVAE:
    """The trained dVAE, frozen; ValueError for weights of another model, or for a decoder alone."""
    found = load(source)
    if not isinstance(found, DVAE) or found.encoder is None:
        raise ValueError(
            f"{source} holds {found.title}, which makes no tokens; give a trained dvae's run or file, or DALL-E's encoder"
        )
    return found.requires_grad_(False)


def needs_tokens(model: Pretrainer) -> bool:
    """Whether its objective is held against visual tokens."""
    return any(TOKENS in ((term.on,) if isinstance(term.on, str) else term.on or ()) for term in model.objective)


def _patch(model: Pretrainer) -> int:
    """Pixels of which a picture's sides must be multiples."""
    backbone = dict(model.named_children()).get("backbone")
    return max(backbone.strides) if isinstance(backbone, Backbone) else STRIDE


def _summed(fabric: Fabric, value: Tensor) -> Tensor:
    """Over all processes."""
    reduced: Any = fabric.all_reduce(value.float(), reduce_op="sum")
    return reduced
