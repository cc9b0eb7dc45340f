"""Saving, loading and the hub, see `segmentarium.weights`."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.contracts import (
    InstanceModel,
    KeypointModel,
    LabelledModel,
    MaskModel,
    Model,
    Preprocessing,
    SegmentationModel,
)
from segmentarium.files import atomic_write
from segmentarium.registry import Entry, check_arguments, remember
from segmentarium.weights import catalogue
from segmentarium.weights.exported import is_exported, load_exported
from segmentarium.weights.inspection import inspected
from segmentarium.weights.layouts import get_layout
from segmentarium.weights.part import fill_part
from segmentarium.weights.reading import HEADER
from segmentarium.weights.source import FILE_NAME, Stored, bare, open_weights
from segmentarium.weights.table import fit, load_state, require, to_theirs

log = logging.getLogger("segmentarium")
# arguments that change what a network computes and leave no trace in its tensors
UNTOLD = (
    "output_stride", "multi_grid", "dilation", "rates", "align_corners", "grids", "bins", "final_conv", "detail_strides",
)  # fmt: skip


def header_of(model: Model, **facts: Any) -> dict[str, Any]:
    """All that a file must say so that it rebuilds its model and explains itself."""
    if not isinstance(model, Model) or not model.registered_name:
        raise ValueError(
            f"{type(model).__name__} was not built by create_model, so a file could not rebuild it; "
            "build it by create_model(name, ...) or save its state_dict() yourself"
        )
    for key, value in model.given_arguments.items():
        if isinstance(value, nn.Module):
            raise ValueError(
                f"{model.registered_name} was built with a module as its {key}, so a file could not rebuild it; "
                f"give {key} by name, or save its state_dict() yourself"
            )
    for told in model.given_arguments.get("insertions", ()):
        if not isinstance(told["block"], str):
            raise ValueError(
                f"{model.registered_name} has a block in its backbone that has no name, so a file could not rebuild it; "
                "register_block(NAME, ...) and insert it by that name, or save its state_dict() yourself"
            )
    made_by = {"format": 1, "model": model.registered_name, "arguments": model.given_arguments}
    said = model.labels() | {"preprocessing": model.preprocessing.as_dict()}
    return made_by | said | {"dataset": None, "metrics": {}, "licences": {}} | facts


def save(model: Model, path: str | Path, *, dtype: torch.dtype | None = None, **facts: Any) -> Path:
    """Writes weights and header as one safetensors file, atomically.

    dtype   stores floating-point tensors in another precision (torch.float16 halves the file)
    facts   of the header: dataset, metrics, licences ({"code", "weights", "data"}), notes, …
    """
    import safetensors.torch

    path = Path(path)
    header = json.dumps(header_of(model, **facts))
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in bare(model).state_dict().items()}
    if dtype is not None:
        state = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    # into memory first: on its way to a file the package makes another, whose name nobody would know after a kill
    whole = safetensors.torch.save({key: tensor.clone() for key, tensor in state.items()}, metadata={HEADER: header})
    with atomic_write(path, plain=True) as temporary:
        temporary.write_bytes(whole)
    return path


def describe(model: Model, header: Mapping[str, Any]) -> None:
    """Puts classes, palette, things, joints, size of crops and preprocessing of a header on the model that was built from it."""
    model.weights_header = dict(header)
    if isinstance(model, LabelledModel) and "classes" in header:
        model.classes = tuple(header["classes"])
    if isinstance(model, SegmentationModel | MaskModel | InstanceModel) and "palette" in header:
        model.palette = tuple((r, g, b) for r, g, b in header["palette"])
    if isinstance(model, MaskModel | InstanceModel) and "things" in header:
        model.things = tuple(header["things"])
    if isinstance(model, KeypointModel) and "joints" in header:
        model.joints = tuple(header["joints"])
    if isinstance(model, KeypointModel) and "input_size" in header:
        height, width = header["input_size"]
        model.input_size = (height, width)
    if "preprocessing" in header:
        said = {**model.preprocessing.as_dict(), **header["preprocessing"]}
        model.preprocessing = Preprocessing.from_dict(said).for_channels(model.in_channels)
    if "test" in header:  # of published weights: sizes and windows in which they were scored
        model.preprocessing = replace(model.preprocessing, **header["test"])


def load(
    source: str | Path,
    *,
    layout: str | None = None,
    strict: bool = True,
    accept_licence: bool = False,
    verbose: bool = False,
    **arguments: Any,
) -> Model:
    """A model with its weights, in eval mode.

    source   a name of the catalogue ("street") or of published weights ("pspnet_resnet50.cityscapes-mmseg"), a file, a folder,
             "hf:OWNER/NAME"; a file of another project is recognised by its keys, or read through the key table `layout`
             ("bisenetv2/coincheung"); an .onnx or .xml of `segmentarium export` is a model that its engine runs
    strict   False takes what fits, and warns of the rest
    accept_licence   consent to the licence of published weights that is not free or not stated
    verbose          print what was recognised, read and assumed, as `inspect_weights` tells it
    arguments        that neither keys nor shapes tell (output_stride=16, align_corners=True); without them the published
                     variant's are assumed, and logged as a warning

    Raises FileNotFoundError, CheckpointError (damaged or unsafe file), LoadError (weights of another model), ValueError for
    a backbone alone.  What fitted of another project's file is logged ("segmentarium", INFO).
    """
    if is_exported(source):
        if layout or arguments:
            given = ", ".join([*(["layout"] if layout else []), *arguments])
            raise ValueError(f"{source} is an exported network, which is as it is; leave {given} out")
        return load_exported(source)
    stored = open_weights(source, layout, accept_licence=accept_licence, arguments=arguments)
    if verbose:
        print(inspected(stored))
    return built(stored, strict=strict)


def built(stored: Stored, *, strict: bool = True) -> Model:
    """The model that weights which were opened are of, filled with them: the rest of `load`."""
    name, source = stored.entry.name, stored.label
    check_arguments(stored.entry.build, name, dict(stored.told))
    if stored.headless:
        raise ValueError(
            f"{source} holds the backbone {name!r} without a classifier; give it as backbone_weights= to create_model, or "
            f"load_part(create_backbone({name!r}), '', {source!r})"
        )
    fitting, report = fit(stored.shapes(), stored.state, stored.rules)
    if strict:
        require(report, name)
    elif not report.complete:
        warnings.warn(f"{source} does not fill {name}:\n{report}", stacklevel=3)
    model = stored.entry.model(**stored.arguments)
    remember(model, name, stored.arguments)
    bare(model).load_state_dict(fitting, strict=False)
    if stored.header:
        describe(model, stored.header)
    if stored.layout:
        log.info("%s: %s, layout %s\n%s", stored.label, name, stored.layout.name, report)
        assumed = {key: value for key, value in stored.assumed().items() if key in UNTOLD and key not in stored.told}
        if assumed and stored.row is None:
            told = ", ".join(f"{key}={value!r}" for key, value in assumed.items())
            log.warning("%s: its keys do not tell %s: assumed as published; give others to load()", stored.label, told)
    return model.eval()


def load_into(
    source: str | Path, found: Entry | None, arguments: Mapping[str, Any], *, accept_licence: bool = False
) -> Model:
    """`create_model(..., weights=source)`: the weights' own arguments, overridden by the caller's.

    found   the model that was asked for; None: whatever the weights are of

    With other classes the head stays new; with other input channels the first convolution is adapted.  Both are warned of.
    Weights of the model's first stage ("enet_encoder"), or of a classifier's backbone, fill that part, and the rest is new.
    """
    stored = open_weights(source, accept_licence=accept_licence)
    name = stored.entry.name
    found = found or stored.entry
    first_stage, part = getattr(found.build, "first_stage", ("", ""))
    starts = name == first_stage
    if name != found.name and stored.entry.build is not found.build and not starts:
        backbone = "give them as backbone_weights=, " if stored.entry.kind == "classifier" else ""
        raise ValueError(
            f"{source} holds weights of {name!r}, not of {found.name!r}; "
            f"{backbone}create that model, or load({str(source)!r})"
        )
    made_with = stored.all_arguments
    for key, value in found.arguments.items():
        if key not in arguments and made_with.get(key, value) != value:
            raise ValueError(
                f"{source} {'is a first stage' if starts else f'holds weights of {name!r}'} with {key}={made_with[key]!r}, "
                f"but {found.name!r} has {key}={value!r}; "
                + (f"train one with {key}={value!r}" if starts else f"create {name!r} instead")
            )
    stored.shapes()
    if starts:
        found_as, part = found, part.rstrip(".")
        given = {key: value for key, value in made_with.items() if key not in found.arguments} | dict(arguments)
    else:
        found_as, part = stored.entry, "backbone" if stored.headless else ""
        given = {**stored.arguments, **arguments}
    model = found_as.model(**given)
    remember(model, found_as.name, given)
    if part:
        report = fill_part(model, part, stored)
        replaced = model.labels().get("num_classes") != made_with.get("num_classes")
    else:
        report = load_state(
            bare(model),
            stored.state,
            rules=stored.rules,
            channels=(stored.in_channels, model.in_channels),
            replace_head=not {"num_classes", "num_joints"}.isdisjoint(arguments),
        )
        replaced = bool(report.mismatched)
    if stored.header:
        # another head has classes of its own; how images are prepared is the trunk's
        facts = ("classes", "palette", "things", "joints") if replaced else ()
        describe(model, {key: value for key, value in stored.header.items() if key not in facts})
    if report.mismatched or report.adapted:
        warnings.warn(f"{source} was loaded into another shape of {found_as.name}:\n{report}", stacklevel=3)
    return model


def export_layout(model: Model, layout: str) -> dict[str, Tensor]:
    """The model's state dict under a public implementation's keys: for going back to their code."""
    return to_theirs(bare(model).state_dict(), get_layout(layout).rules)


def from_pretrained(source: str | Path, **options: Any) -> Model:
    """`load` with the hub's habit: a local folder, a file, or OWNER/NAME on the Hugging Face hub."""
    text = str(source)
    if not Path(text).exists() and catalogue.find(text) is None and text.count("/") == 1 and not text.startswith("hf:"):
        text = f"hf:{text}"
    return load(text, **options)


def push_to_hub(model: Model, repository: str, *, private: bool = False, token: str | None = None, **facts: Any) -> str:
    """Uploads the model's safetensors file and a model card to OWNER/NAME on the Hugging Face hub; returns the address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / FILE_NAME, **facts)
        (Path(folder) / "README.md").write_text(_hub_card(model, repository, facts), encoding="utf-8")
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(folder_path=folder, repo_id=repository))


def _hub_card(model: Model, repository: str, facts: Mapping[str, Any]) -> str:
    header = header_of(model, **facts)
    lines = ["---", "library_name: segmentarium", "tags: [image-segmentation]", "---", f"# {header['model']}", ""]
    lines += [
        f"- {key}: {value}" for key, value in header.items() if key not in ("format", "palette", "seen") and value
    ]
    lines += [
        "",
        "```python",
        "import segmentarium",
        f'model = segmentarium.from_pretrained("{repository}")',
        "```",
        "",
    ]
    return "\n".join(lines)
