"""Reading and writing weights, see `segmentarium.weights`."""

from __future__ import annotations

import json
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.contracts import Preprocessing, SegmentationModel
from segmentarium.files import atomic_write
from segmentarium.registry import Entry, did_you_mean, entry, remember, variant_of
from segmentarium.weights import catalogue
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import LoadError, load_state, to_theirs

HEADER = "segmentarium"
FILE_NAME = "model.safetensors"  # of a folder or a hub repository


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or must not be read."""


def header_of(model: nn.Module, **facts: Any) -> dict[str, Any]:
    """All that a file must say so that it rebuilds its model and explains itself."""
    name = getattr(model, "registered_name", "")
    if not name:
        raise ValueError(
            f"{type(model).__name__} was not built by create_model, so a file could not rebuild it; "
            "build it by create_model(name, ...) or save its state_dict() yourself"
        )
    arguments = getattr(model, "given_arguments", {})
    for key, value in arguments.items():
        if isinstance(value, nn.Module):
            raise ValueError(
                f"{name} was built with a module as its {key}, so a file could not rebuild it; "
                f"give {key} by name, or save its state_dict() yourself"
            )
    header: dict[str, Any] = {"format": 1, "model": name, "arguments": arguments}
    if isinstance(model, SegmentationModel):
        header["classes"] = list(model.classes)
        header["palette"] = [list(colour) for colour in model.palette]
        header["preprocessing"] = model.preprocessing.as_dict()
    return header | {"dataset": None, "metrics": {}, "licences": {}} | facts


def save(model: nn.Module, path: str | Path, *, dtype: torch.dtype | None = None, **facts: Any) -> Path:
    """Writes weights and header as one safetensors file, atomically.

    dtype   stores floating-point tensors in another precision (torch.float16 halves the file)
    facts   of the header: dataset, metrics, licences ({"code", "weights", "data"}), notes, …
    """
    from safetensors.torch import save_file

    path = Path(path)
    header = json.dumps(header_of(model, **facts))
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    if dtype is not None:
        state = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    with atomic_write(path) as temporary:
        save_file({key: tensor.clone() for key, tensor in state.items()}, temporary, metadata={HEADER: header})
    return path


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """State dict and our header (None: not our file) of a .safetensors file or a pickled checkpoint.

    Pickles are read with weights_only=True: a file with code in it is refused.  Raises FileNotFoundError, CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} is no whole safetensors file ({error}); was the download or copy complete?"
            ) from None
        return state, json.loads(metadata[HEADER]) if HEADER in metadata else None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors ({str(error).splitlines()[0]}); it could run code when opened and is refused. "
            "Ask for a safetensors file, or save its state_dict() again with torch.save"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no checkpoint that PyTorch can read: {error}") from None
    return unwrap(loaded, path), None


def unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint: under "state_dict", "model", … or bare; DataParallel's "module." removed."""
    for key in ("state_dict", "model_state_dict", "model_state", "model", "net"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path} holds no state dict: expected a mapping of names to tensors")
    if all(key.startswith("module.") for key in loaded):
        loaded = {key.removeprefix("module."): value for key, value in loaded.items()}
    return dict(loaded)


def locate(source: str | Path) -> Path:
    """A catalogue name, a file, a folder that holds model.safetensors, or "hf:OWNER/NAME" -> a local file."""
    text = str(source)
    known = catalogue.find(text)
    if known is not None:
        text = known.location
        if not text.startswith("hf:"):
            return catalogue.FILES / text
    if text.startswith("hf:"):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(text.removeprefix("hf:"), FILE_NAME))
    path = Path(text)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights called {text!r}: neither a file, nor of the catalogue, nor a hub address (hf:OWNER/NAME)"
            + did_you_mean(text, catalogue.list_weights())
        )
    return path


def describe(model: Any, header: Mapping[str, Any]) -> None:
    """Puts classes, palette and preprocessing of a header on the model that was built from it."""
    model.weights_header = dict(header)
    if isinstance(model, SegmentationModel):
        if "classes" in header:
            model.classes = tuple(header["classes"])
            model.palette = tuple((r, g, b) for r, g, b in header["palette"])
        if "preprocessing" in header:
            model.preprocessing = Preprocessing.from_dict(header["preprocessing"]).for_channels(model.in_channels)


def load(source: str | Path, *, layout: str | None = None, strict: bool = True, verbose: bool = True) -> nn.Module:
    """A model with its weights, in eval mode.

    source   a catalogue name ("street"), a file, a folder, "hf:OWNER/NAME"; a file of another project is recognised by its
             keys, or read through the key table `layout` ("bisenetv2/coincheung")
    strict   False takes what fits and reports the rest
    verbose  print the table of what fitted, for files that are not our own

    Raises FileNotFoundError, CheckpointError (damaged or unsafe file), LoadError (weights of another model).
    """
    path = locate(source)
    state, header = read_file(path)
    if header is not None:
        found = entry(header["model"])
        model = found.build(**{**found.arguments, **header["arguments"]})
        remember(model, found.name, header["arguments"])
        load_state(model, state, strict=strict)
        describe(model, header)
        return model.eval()
    table = get_layout(layout) if layout else recognise(state)
    found, arguments = variant_of(entry(table.model), table.arguments(state))
    model = found.build(**{**found.arguments, **arguments})
    remember(model, found.name, arguments)
    report = load_state(model, state, rules=table.rules, strict=strict)
    if facts := table.facts(state):
        describe(model, facts)
    if verbose:
        print(f"{path.name}: {found.name}, layout {table.name}\n{report}")
    return model.eval()


def load_into(source: str | Path, found: Entry, arguments: Mapping[str, Any]) -> nn.Module:
    """`create_model(..., weights=source)`: the weights' own arguments, overridden by the caller's.

    With other classes the head stays new; with other input channels the first convolution is adapted.  Both are warned of.
    """
    path = locate(source)
    state, header = read_file(path)
    rules = None
    first_stage: tuple[str, str] | None = getattr(found.build, "first_stage", None)
    if header is not None and first_stage is not None and header["model"] == first_stage[0]:
        return _second_stage(source, state, header, found, arguments, first_stage[1])
    if header is None:
        table = recognise(state)
        stored, made_with = variant_of(entry(table.model), table.arguments(state))
        name, rules = stored.name, table.rules
        header = table.facts(state) or None
    else:
        made_with, name = header["arguments"], header["model"]
    if name != found.name and entry(name).build is not found.build:
        raise ValueError(
            f"{source} holds weights of {name!r}, not of {found.name!r}; create that model, or load({str(source)!r})"
        )
    stored = entry(name)
    merged = {**stored.arguments, **made_with, **arguments}
    for key, value in found.arguments.items():
        if key not in arguments and merged.get(key, value) != value:
            raise ValueError(
                f"{source} holds weights of {name!r} with {key}={merged[key]!r}, but {found.name!r} has {key}={value!r}; "
                f"create {name!r} instead"
            )
    model = found.build(**merged)
    remember(model, name, {**made_with, **arguments})
    report = load_state(
        model,
        state,
        rules=rules,
        source_channels={**stored.arguments, **made_with}.get("in_channels", 3),
        replace_head="num_classes" in arguments,
    )
    if header is not None:
        # another head has classes of its own; how images are prepared is the trunk's
        facts = ("classes", "palette") if report.mismatched else ()
        describe(model, {key: value for key, value in header.items() if key not in facts})
    if report.mismatched or report.adapted:
        warnings.warn(f"{source} was loaded into another shape of {name}:\n{report}", stacklevel=3)
    return model


def _second_stage(
    source: str | Path,
    state: Mapping[str, Tensor],
    header: Mapping[str, Any],
    found: Entry,
    arguments: Mapping[str, Any],
    part: str,
) -> nn.Module:
    """The model `found`, its `part` ("encoder.") from the file of its first stage, everything else new.

    The first stage's arguments hold for this one too.  Raises LoadError unless the whole part is filled.
    """
    made_with = {**entry(header["model"]).arguments, **header["arguments"]}
    for key, value in found.arguments.items():
        if key not in arguments and made_with.get(key, value) != value:
            raise ValueError(
                f"{source} is a first stage with {key}={made_with[key]!r}, but {found.name!r} has {key}={value!r}; "
                f"train one with {key}={value!r}"
            )
    kept = {**{key: value for key, value in made_with.items() if key not in found.arguments}, **arguments}
    model = found.build(**{**found.arguments, **kept})
    remember(model, found.name, kept)
    handed_over = {key: tensor for key, tensor in state.items() if key.startswith(part)}
    report = load_state(model, handed_over, source_channels=made_with.get("in_channels", 3), strict=False)
    missing = [key for key in report.missing if key.startswith(part)]
    if missing or report.unexpected or report.mismatched or not report.loaded:
        raise LoadError(f"{source} does not fit {found.name!r}, whose {part.rstrip('.')} should be its own", report)
    facts = () if model.num_classes == made_with.get("num_classes") else ("classes", "palette")
    describe(model, {key: value for key, value in header.items() if key not in facts})
    return model


def export_layout(model: nn.Module, layout: str) -> dict[str, Tensor]:
    """The model's state dict under a public implementation's keys: for going back to their code."""
    return to_theirs(model.state_dict(), get_layout(layout).rules)


def from_pretrained(source: str | Path, **options: Any) -> nn.Module:
    """`load` with the hub's habit: a local folder, a file, or OWNER/NAME on the Hugging Face hub."""
    text = str(source)
    if not Path(text).exists() and catalogue.find(text) is None and text.count("/") == 1 and not text.startswith("hf:"):
        text = f"hf:{text}"
    return load(text, **options)


def push_to_hub(
    model: nn.Module, repository: str, *, private: bool = False, token: str | None = None, **facts: Any
) -> str:
    """Uploads the model's safetensors file and a model card to OWNER/NAME on the Hugging Face hub; returns the address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / FILE_NAME, **facts)
        (Path(folder) / "README.md").write_text(_hub_card(model, repository, facts), encoding="utf-8")
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(folder_path=folder, repo_id=repository))


def _hub_card(model: nn.Module, repository: str, facts: Mapping[str, Any]) -> str:
    header = header_of(model, **facts)
    lines = ["---", "library_name: segmentarium", "tags: [image-segmentation]", "---", f"# {header['model']}", ""]
    lines += [f"- {key}: {value}" for key, value in header.items() if key not in ("format", "palette") and value]
    lines += [
        "",
        "```python",
        "import segmentarium",
        f'model = segmentarium.from_pretrained("{repository}")',
        "```",
        "",
    ]
    return "\n".join(lines)
