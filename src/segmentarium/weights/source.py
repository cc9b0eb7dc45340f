"""Where weights come from: files of ours and of others, the catalogue, the hub; and what they are weights of."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segmentarium.brief import Brief
from segmentarium.contracts import Classifier
from segmentarium.meta import on_meta
from segmentarium.registry import Entry, entry, unseen, variant_of, without_fetching
from segmentarium.weights import catalogue
from segmentarium.weights.layouts import arguments_of, get_layout, recognise
from segmentarium.weights.published import Published, class_names, published
from segmentarium.weights.reading import CheckpointError, check_numbers, read_all
from segmentarium.weights.table import Layout, Rule

BUILD_NOTHING = ("max_", "points", "drawn")  # how much of a scan or of a map is looked at: such numbers may be large
FILE_NAME = "model.safetensors"  # of a folder or a hub repository
# what training loops put before every key, by preference: averaged weights where there are some
WRAPPERS = ("_orig_mod.", "module.", "ema_model.", "model_ema.", "ema.", "model.", "net.", "network.", "segmentor.")
ELSEWHERE = re.compile(
    r"(?:hf[-_]hub|local[-_]dir|schema)\s*:|://|^[/~]|\.\./", re.IGNORECASE
)  # what timm, among others, takes
OF_A_RUN = ("best.safetensors", "last.safetensors")  # of the folder of a training, the better first


def _row_of(source: str | Path) -> Published | None:
    """The published checkpoint of that name; None: it is a file, a folder, or of our catalogue, and the table is not read."""
    text = str(source)
    return None if Path(text).exists() or catalogue.find(text) else published().get(text)


def locate(source: str | Path, *, accept_licence: bool = False) -> Path:
    """A catalogue name, a file, a folder that holds model.safetensors, or a training's, or "hf:OWNER/NAME" -> a local file.

    accept_licence   consent to a licence of published weights that is not free or not stated

    Raises FileNotFoundError, and for published weights LicenceError and FetchError.
    """
    text = str(source)
    known = catalogue.find(text)
    if known is not None:
        text = known.location
        if not text.startswith("hf:"):
            return catalogue.FILES / text
    if text.startswith("hf:"):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(text.removeprefix("hf:"), FILE_NAME))
    if (row := _row_of(text)) is not None:
        from segmentarium.weights.fetch import fetch

        return fetch(row, accept_licence=accept_licence)
    path = Path(text)
    if path.is_dir():
        places = [path / name for name in (FILE_NAME, *OF_A_RUN)]
        path = next((place for place in places if place.is_file()), places[0])
    if not path.is_file():
        from segmentarium.weights.names import no_weights

        told = no_weights(text)
        nowhere = ": neither a file, nor of the catalogue, nor a hub address (hf:OWNER/NAME)"
        raise FileNotFoundError(f"no weights called {text!r}{'' if told.startswith(':') else nowhere}{told}")
    return path


@dataclass(frozen=True, repr=False)
class Stored(Brief):
    """What a file holds: tensors, the model that they are of, and how to read them.

    arguments   that the model was made with, beside the registered ones of `entry`
    header      ours, or what a layout or the catalogue knows of its files; {}: nothing is known
    row         the published checkpoint that it is, where it was named
    told        arguments that whoever opened it gave
    """

    label: str
    state: Mapping[str, Tensor]
    entry: Entry
    arguments: dict[str, Any]
    header: dict[str, Any]
    layout: Layout | None = None
    row: Published | None = None
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rules(self) -> tuple[Rule, ...] | None:
        return self.layout.rules if self.layout else None

    @property
    def all_arguments(self) -> dict[str, Any]:
        return self.entry.completed(self.arguments)

    @property
    def in_channels(self) -> int:
        return self.all_arguments.get("in_channels", 3)

    @property
    def headless(self) -> bool:
        """A backbone alone."""
        return self.entry.kind == "classifier" and self.all_arguments.get("num_classes") is None

    def assumed(self) -> dict[str, Any]:
        """Arguments that another project's keys and shapes do not tell, at the values of the published variant."""
        if self.layout is None:
            return {}
        read = {*arguments_of(self.layout, self.state), *self.arguments}
        given = self.entry.completed({})
        found = {}
        for name, parameter in inspect.signature(self.entry.build).parameters.items():
            value = given.get(name, parameter.default)
            trivial = value is None or value is parameter.empty or unseen(name)
            if name not in read and not trivial and parameter.kind is not parameter.VAR_KEYWORD:
                found[name] = value
        return found

    def shapes(self) -> dict[str, Tensor]:
        """The state dict of its model on the meta device, before anything of a stranger's sizes is allocated.

        Raises CheckpointError for sizes and arguments that the file's tensors cannot have.
        """
        # every size is a tensor's or counts tensors; small ones (dilations, kernels, heads) may be neither
        largest = max([4096, len(self.state), *(n for tensor in self.state.values() for n in tensor.shape)])
        counted = {key: value for key, value in self.all_arguments.items() if not any(w in key for w in BUILD_NOTHING)}
        if (size := _largest(counted)) > largest:
            raise CheckpointError(f"{self.label} says {size:g} in its arguments; its tensors have up to {largest}")
        try:
            with on_meta():
                return self.entry.make(**self.all_arguments).state_dict()
        except Exception as error:  # whatever a stranger's values break, the file is at fault
            raise CheckpointError(
                f"{self.label}: {self.entry.name} cannot be built with its arguments: {error}"
            ) from error


def _largest(value: Any) -> float:
    """The largest number, or length of a list, anywhere in a header's arguments."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return max([len(value), *map(_largest, value)])
    return abs(value) if isinstance(value, int | float) else 0


def bare(model: nn.Module) -> nn.Module:
    """The module whose keys stand in files: a classifier's file has its backbone's."""
    return model.backbone if isinstance(model, Classifier) else model


def _renamed(stored: Stored) -> Mapping[str, Tensor]:
    """The state dict of a file of ours under the keys of today: version 0.1.0 called some otherwise."""
    state = stored.state
    if any(".body." in f".{key}" for key in state):  # a timm model, with the keys of its `features_only`
        from segmentarium.backbones.timm import rename_features_only

        return rename_features_only(state, stored.shapes())
    if stored.entry.name == "bsn":  # whose attribute stood beside the decoder
        return {key if not key.startswith("attribute.") else f"decoder.{key}": state[key] for key in state}
    return state


def open_weights(
    source: str | Path | Mapping[str, Tensor],
    layout: str | None = None,
    *,
    accept_licence: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> Stored:
    """Reads a file (see `load`) or takes a state dict, and finds out what it is: by its header, or by its keys.

    arguments   that keys and shapes do not tell, in place of those that would be assumed
    """
    told: dict[str, Any] = {}
    row = None if isinstance(source, Mapping) else _row_of(source)
    if isinstance(source, Mapping):
        label, path, state, header = "the state dict", None, source, None
    else:
        path = locate(source, accept_licence=accept_licence)
        label, (state, header, told) = str(source), read_all(path)
        check_numbers(state, label)
        if row is not None and row.address.startswith("hf:"):
            told |= _config_beside(path)
    if header is not None:
        _check_places(header["arguments"], label)
        try:
            given = without_fetching({**header["arguments"], **(arguments or {})})
            stored = Stored(label, state, entry(header["model"]), given, header, told=arguments or {})
        except KeyError as error:
            raise CheckpointError(f"{label}: {error.args[0]}") from None
        return replace(stored, state=_renamed(stored))
    if layout is not None:
        table = get_layout(layout)
    elif row is not None:
        table = recognise(state, row.layouts)
    else:
        state, table = _unwrapped(state)
    read, facts = arguments_of(table, state), table.facts(state)
    if path is not None and table.beside:
        read, more = _beside(path.with_name(table.beside), table, read)
        facts = facts | more
    if row is None and path is not None and "classes" not in facts | told:
        named = _config_beside(path)
        if len(named.get("classes", ())) == read.get("num_classes"):
            facts = facts | named
    if row is not None:
        said = row.header(read.get("num_classes"))
        joined = {key: facts[key] | said[key] for key in ("preprocessing", "licences") if key in facts and key in said}
        facts = facts | said | joined
        read = with_arguments(read, row.arguments)
    elif "classes" not in facts | told and (dataset := facts.get("dataset")):
        facts = (class_names(dataset, read.get("num_classes")) or {}) | facts
    facts = facts | told  # what the file says itself comes first
    found, kept = variant_of(entry(table.model), with_arguments(read, arguments or {}))
    return Stored(label, state, found, kept, facts, table, row, arguments or {})


def _check_places(value: Any, label: str) -> None:
    """A header names backbones, and never a place where one would be looked for: CheckpointError."""
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_places(inner, label)
    if isinstance(value, str) and ELSEWHERE.search(value):
        raise CheckpointError(
            f"{label} names {value[:60]!r} in its header; a file must not make others be fetched or read"
        )


def _unwrapped(state: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Layout]:
    """The network's keys, without what loops put before them: `_orig_mod.` of torch.compile, `module.`, `model.` of Lightning, …;
    and the layout that they fit.

    Only where they fit none as they are.  Of an averaged copy beside the network, the average.  Raises what `recognise` says of
    the keys as they are.
    """
    tried, problems = state, list[Exception]()
    for _ in WRAPPERS:
        try:
            return tried, recognise(tried)
        except (ValueError, LookupError) as error:
            problems.append(error)
        prefix = next((one for one in WRAPPERS if any(key.startswith(one) for key in tried)), None)
        if prefix is None:
            break
        tried = {key.removeprefix(prefix): value for key, value in tried.items() if key.startswith(prefix)}
    raise problems[0]


def with_arguments(read: dict[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a file's keys tell, with others beside or in place of them; those of a part are joined."""
    both = {key: {**read[key], **value} for key, value in told.items() if isinstance(value, Mapping) and key in read}
    return {**read, **told, **both}


def _config_beside(path: Path) -> dict[str, Any]:
    """Classes that transformers' config.json beside the weights names."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        names = json.loads(path.with_name("config.json").read_text("utf-8"))["id2label"]
        if not all(name.startswith("LABEL_") for name in names.values()):
            return {"classes": [names[str(index)] for index in range(len(names))]}
    return {}


def _beside(path: Path, table: Layout, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the file beside a checkpoint adds, if it lies there.  Read as plain data: nothing in it is run."""
    if not path.is_file():
        return arguments, {}
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"reading {path} needs PyYAML: pip install pyyaml, or move the file away") from error

    class Plain(yaml.SafeLoader):
        """Their programs write tuples."""

    Plain.add_constructor("tag:yaml.org,2002:python/tuple", Plain.construct_yaml_seq)
    try:
        return table.told(yaml.load(path.read_text("utf-8"), Plain), arguments)
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not what {table.name} writes beside a checkpoint ({type(error).__name__}: {error}); repair it, or move "
            "it away to load by the keys alone"
        ) from None
