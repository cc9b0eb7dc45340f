"""Where weights come from: files of ours and of others, the catalogue, the hub; and what they are weights of."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.brief import Brief
from segmentarium.contracts import Classifier
from segmentarium.meta import on_meta
from segmentarium.preprocessing import LARGEST, SMALLEST, Preprocessing
from segmentarium.registry import Entry, entry, variant_of, without_fetching
from segmentarium.weights import catalogue
from segmentarium.weights.inert import NAMED, read_tensors
from segmentarium.weights.layouts import arguments_of, get_layout, recognise
from segmentarium.weights.numpy_pickle import read_numpy_pickle
from segmentarium.weights.published import Published, class_names, published
from segmentarium.weights.table import Layout, Rule

HEADER = "segmentarium"
UNSEEN = ("drop_path", "dropout")  # arguments that no trained weights depend on
BUILD_NOTHING = ("max_", "points", "drawn")  # how much of a scan or of a map is looked at: such numbers may be large
FILE_NAME = "model.safetensors"  # of a folder or a hub repository
# where training programs put the state dict, by preference: averaged weights where there are no others
STATES = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "state_dict_ema",
    "model_ema",
    "ema",
    "module",
)
# what training loops put before every key, by preference: averaged weights where there are some
WRAPPERS = ("_orig_mod.", "module.", "ema_model.", "model_ema.", "ema.", "model.", "net.", "network.", "segmentor.")
OTHERS = {
    ".caffemodel": "Caffe",
    ".prototxt": "Caffe",
    ".ckpt": "MindSpore or TensorFlow",
    ".h5": "Keras",
}
ELSEWHERE = re.compile(
    r"(?:hf[-_]hub|local[-_]dir|schema)\s*:|://|^[/~]|\.\./", re.IGNORECASE
)  # what timm, among others, takes
COUNTED = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)  # of which PyTorch can say whether they are numbers
OF_A_RUN = ("best.safetensors", "last.safetensors")  # of the folder of a training, the better first


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or must not be read."""


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """State dict and our header (None: not our file) of a .safetensors file or a pickled checkpoint.

    Of pickles only tensors are taken: what else they name is not run, and files that name programs are refused.  Raises
    FileNotFoundError, CheckpointError.
    """
    state, header, _ = read_all(path)
    return state, header


def read_all(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None, dict[str, Any]]:
    """The same, and what the training program wrote beside the weights: classes, palette."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except MemoryError:
            raise
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} is no whole safetensors file ({error}); was the download or copy complete?"
            ) from None
        except Exception as error:  # kinds of tensors that PyTorch has not, names that are none, …
            raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
        return state, _header(metadata[HEADER], path) if HEADER in metadata else None, {}
    if (what := _is_no_checkpoint(path)) is not None:
        raise CheckpointError(f"{path} is {what}")
    try:
        loaded = _unpickle(path)
    except pickle.UnpicklingError as error:
        if (whose := OTHERS.get(path.suffix)) is not None:
            raise CheckpointError(f"{path} is of {whose}; only PyTorch's and safetensors files can be read") from None
        raise CheckpointError(
            f"{path} holds more than tensors ({_reason(error)}); it could run code when opened and is refused. "
            "Ask for a safetensors file, or save its state_dict() again with torch.save"
        ) from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise CheckpointError(f"{path} is no checkpoint that PyTorch can read: {_reason(error)}") from None
    return unwrap(loaded, path), None, _told(loaded)


def _reason(error: Exception) -> str:
    """What PyTorch says, in a line and without its advice to do without its safety."""
    if (named := NAMED.search(str(error))) is not None:
        return f"it names {named[1]}"
    said = " ".join(str(error).split())
    return "no plain pickle of tensors" if "weights_only" in said else said or type(error).__name__


def _is_no_checkpoint(path: Path) -> str | None:
    """What a file is that people have in a checkpoint's place, and what to do about it; None: it may be one."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if not head:
        return "an empty file; was the download or copy complete?"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the weights themselves: `git lfs pull` fetches them"
    if path.suffix == ".xml" and b"<net " in text:
        return "OpenVINO's description of a network; load() runs it, and weights are in the checkpoint that it was exported from"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page, not weights: the address asked for a confirmation or a login; download it in the browser"
    if path.suffix == ".onnx" or (
        head[:1] == b"\x08" and any(name in head for name in (b"pytorch", b"onnx", b"tf2onnx"))
    ):
        return "an ONNX file, which holds a network but not under PyTorch's names; give the checkpoint that it was exported from"
    return None


def _unpickle(path: Path) -> Any:
    """What a pickle holds; arrays of detectron2's and Paddle's are tensors.  UnpicklingError for one that names programs."""
    if path.suffix in (".pkl", ".pdparams"):  # PyTorch's files may be called .pkl too: archives, or a number first
        with suppress(pickle.UnpicklingError):
            if isinstance(loaded := read_numpy_pickle(path), Mapping):
                return _from_paddle(loaded) if path.suffix == ".pdparams" else loaded
    return read_tensors(path)


def _from_paddle(loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """Paddle's state dict with PyTorch's names for the running statistics."""
    state = {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
    names = {"_mean": "running_mean", "_variance": "running_var"}
    return {".".join([*(parts := key.split("."))[:-1], names.get(parts[-1], parts[-1])]): state[key] for key in state}


def _told(loaded: Any) -> dict[str, Any]:
    """Classes and palette that mmengine and mmcv write beside the weights, where they are what they must be."""
    meta = loaded.get("meta") if isinstance(loaded, Mapping) else None
    if not isinstance(meta, Mapping):
        return {}
    inner = meta.get("dataset_meta")  # mmengine's; mmcv's stands outside
    said: Mapping[Any, Any] = inner if isinstance(inner, Mapping) else meta
    classes = said.get("CLASSES", said.get("classes"))
    palette = said.get("PALETTE", said.get("palette"))
    found: dict[str, Any] = {}
    if isinstance(classes, list | tuple) and classes and all(isinstance(name, str) for name in classes):
        found["classes"] = [" ".join(name.split()) for name in classes]
        with suppress(TypeError, ValueError):
            colours = [[int(value) for value in colour] for colour in palette]
            if len(colours) == len(classes) and all(len(c) == 3 and set(c) <= set(range(256)) for c in colours):
                found["palette"] = colours
    return found


def _header(text: str, path: Path) -> dict[str, Any]:
    """The header of a file, whose facts are what they must be; CheckpointError for what is not."""
    try:
        header = json.loads(text)
        facts = [isinstance(header["model"], str), isinstance(header["arguments"], dict)]
        for kind in ("classes", "joints"):
            if kind in header:
                facts += [isinstance(header[kind], list), all(isinstance(name, str) for name in header[kind])]
        sides = header.get("input_size", (SMALLEST, SMALLEST))
        facts += [len(sides) == 2, *(isinstance(side, int) and SMALLEST <= side <= LARGEST for side in sides)]
        if "things" in header:
            facts += [all(isinstance(index, int) and 0 <= index < len(header["classes"]) for index in header["things"])]
        if "palette" in header:
            palette = header["palette"]
            facts += [len(palette) == len(header["classes"])]
            facts += [len(colour) == 3 and all(value in range(256) for value in colour) for colour in palette]
        if "preprocessing" in header:
            Preprocessing.from_dict(header["preprocessing"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} has a header that is none of ours ({type(error).__name__}: {error})") from None
    if not all(facts):
        raise CheckpointError(
            f"{path} has a header whose model, arguments, classes, joints, input_size, things or palette are none"
        )
    return header


def unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint: under "state_dict", "model", … or bare; DataParallel's "module." removed.

    What stands among the tensors and is none (a version, a name) is left out.
    """
    for key in STATES:
        if isinstance(loaded, Mapping) and isinstance(inner := loaded.get(key), Mapping) and _tensors(inner):
            loaded = inner
    state = _tensors(loaded) if isinstance(loaded, Mapping) else {}
    if not state:
        raise CheckpointError(f"{path} holds no state dict: expected a mapping of names to tensors")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, Tensor)}


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
            trivial = value is None or value is parameter.empty or any(word in name for word in UNSEEN)
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
        _check_numbers(state, label)
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


def _check_numbers(state: Mapping[str, Tensor], label: str) -> None:
    """CheckpointError for weights that are no numbers; infinity stands in masks of attention."""
    for key, tensor in state.items():
        if tensor.dtype in COUNTED and bool(tensor.isnan().any()):
            raise CheckpointError(
                f"{label}: {key} holds values that are no numbers (NaN); its training went astray, or the file is damaged"
            )


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
