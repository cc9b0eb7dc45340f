"""Key tables: from someone else's state dict to ours and back, with nothing guessed and nothing skipped in silence."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from segmentarium.preprocessing import Preprocessing

Keys = str | tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """One line of a key table: `theirs` -> `ours`.

    `{}` stands for one part of a key (between dots), `{*}` for any rest; they are carried over in order.
    Several keys on a side are one tensor cut along its first dimension (query, key, value against their stack), or along
    `dim` (a convolution of an image with further channels against two convolutions).
    `ours=None`: a key that we do not keep, on purpose.  `theirs_ndim=4`: theirs is a 1×1 convolution where ours is linear;
    3: theirs is a factor (C, 1, 1) for each channel of a map where ours is a vector, or a convolution along one dimension;
    0: theirs is a scalar where ours is a vector of one.
    `bgr=1`: the last three entries along dimension 1 belong to the channels of an image that theirs reads blue first;
    they are turned round, since ours reads red first.  `behind=1`: one more channel comes after those three.
    `optional`: theirs builds it whether or not it is used; where our model, by its arguments, has none, it is left out.
    `axes=(sizes, order)`: theirs counts its last dimension by axes of these sizes (one may be -1); ours has them in this
    order.  `tied`: theirs holds one tensor under several keys, ours once.
    `transposed`: theirs is a matrix that vectors are multiplied by from the left, ours a linear layer's.
    `rolled=1`: theirs begins with the row of the background, which ours has at the end; 4: with so many rows of it.
    """

    theirs: Keys
    ours: Keys | None
    theirs_ndim: int | None = None
    bgr: int | None = None
    behind: int = 0
    optional: bool = False
    axes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    dim: int = 0
    tied: bool = False
    transposed: bool = False
    rolled: int = 0


@dataclass(frozen=True)
class Output:
    """What of a model a stored array of a public implementation is compared with.

    name      an output of `forward_train`; "forward": what the model returns; "feature 0": a backbone's
    resized   brought to the image's size, as theirs returns it
    step      every step-th row and column is stored
    log       theirs are log-probabilities
    exp       theirs are probabilities, ours their logarithms
    """

    name: str
    resized: bool = False
    step: int = 1
    log: bool = False
    exp: bool = False


@dataclass(frozen=True)
class Golden:
    """A stored reference of a layout: `tests/parity/test_layouts.py` loads, compares, recognises and reverses each.

    outputs     array of the reference ("out/0") -> what of ours it equals
    arguments   of the model, where no key tells them
    dropped     shell patterns of all keys in this reference that we do not keep
    computed    keys of fixed tables that theirs counts among its parameters and ours computes; they are not stored
    frozen      shell patterns of constants that ours counts among its parameters: norms that theirs does not train
    pixels      (scale, offset): theirs takes scale * input + offset, as values of 0 to 255, and normalises it itself
    prepare     what is done to our model with the reference's inputs, by name, of which the first is the image
    """

    outputs: Mapping[str, str | Output]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    pixels: tuple[float, float] | None = None
    prepare: Callable[[torch.nn.Module, Mapping[str, Tensor]], None] | None = None


@dataclass(frozen=True)
class Layout:
    """One public implementation's checkpoint: which model of ours it is, and the table of its keys.

    arguments(state) reads the constructor's arguments (num_classes, ...) off the shapes of the state dict.
    facts(state) is what a file of ours would say in its header of such weights, where their publication says it: classes
    with palette, preprocessing (`Preprocessing.as_dict()`), dataset, licences.
    goldens: stored outputs of that implementation, by name ("realtime/bisenetv2-mmseg").
    beside: the name of a YAML file that their programs write beside a checkpoint; where one lies there, told(what it says,
    arguments) gives the arguments and facts that it adds.
    others: repositories of others whose files have the same keys.
    """

    name: str
    model: str
    rules: tuple[Rule, ...]
    arguments: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda state: {}
    source: str = ""
    facts: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda state: {}
    goldens: Mapping[str, Golden] = field(default_factory=dict)
    beside: str = ""
    told: Callable[[Any, dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]] = lambda said, arguments: (
        arguments,
        {},
    )
    others: tuple[str, ...] = ()

    @property
    def blue_first(self) -> bool:
        """Theirs takes images as blue, green and red."""
        return any(rule.bgr is not None for rule in self.rules)


@dataclass
class LoadReport:
    """What fitted and what did not, by our keys (unexpected: by theirs)."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)  # key, given, wanted
    adapted: list[str] = field(default_factory=list)  # first convolutions of other channels, tables of another grid
    dropped: list[str] = field(default_factory=list)  # keys that are left out on purpose
    preprocessing: Preprocessing | None = None  # what a part's weights made the model's

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """A table by part of the model: loaded, missing, mis-shaped and unexpected tensors; then the keys that failed."""
        columns = ("loaded", "missing", "mis-shaped", "unexpected")
        counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(columns, 0))
        mismatched = [key for key, _, _ in self.mismatched]
        for column, keys in zip(columns, (self.loaded, self.missing, mismatched, self.unexpected), strict=True):
            for key in keys:
                counts[".".join(key.split(".")[:1])][column] += 1
        width = max([4, *(len(part) for part in counts)])
        lines = [f"{'part':<{width}}  " + "  ".join(f"{column:>10}" for column in columns)]
        lines += [f"{part:<{width}}  " + "  ".join(f"{row[c]:>10}" for c in columns) for part, row in counts.items()]
        for key, given, wanted in self.mismatched:
            lines.append(f"mis-shaped: {key} is {given} in the file, {wanted} in the model")
        for title, keys in (
            ("missing in the file", self.missing),
            ("unexpected in the file", self.unexpected),
            ("adapted to the input channels, or from a table of another grid", self.adapted),
        ):
            if keys:
                rest = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
                lines.append(f"{title}: {', '.join(keys[:8])}{rest}")
        if self.preprocessing is not None:
            lines.append(
                f"images normalised as the weights': mean {self.preprocessing.mean}, std {self.preprocessing.std}"
            )
        return "\n".join(lines)


class LoadError(ValueError):
    """A checkpoint does not fit; `.report` says what did and what did not."""

    def __init__(self, message: str, report: LoadReport) -> None:
        super().__init__(f"{message}\n{report}")
        self.report = report


def outputs_of(state: Mapping[str, Tensor], key: str) -> int | None:
    """How many outputs the layer has whose weight is called `key`; None: it is not there."""
    return state[key].shape[0] if key in state else None


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\{\}", r"([^.]+)").replace(r"\{\*\}", r"(.+)"))


def _fill(text: str, parts: Iterable[str]) -> str:
    for part in parts:
        text = re.sub(r"\{\*?\}", part.replace("\\", r"\\"), text, count=1)
    return text


def _side(keys: Keys) -> tuple[str, ...]:
    return (keys,) if isinstance(keys, str) else keys


def _turn_round(tensor: Tensor, dim: int, behind: int) -> Tensor:
    """Three entries along `dim`, `behind` which stand so many more, in reverse order: blue, green, red <-> red, green, blue."""
    if tensor.ndim <= dim:  # a count of batches beside the statistics
        return tensor
    before = tensor.shape[dim] - 3 - behind
    if before < 0:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no three colours along dimension {dim}")
    first, colours, last = tensor.split([before, 3, behind], dim)
    return torch.cat([first, colours.flip(dim), last], dim)


def _reorder(tensor: Tensor, sizes: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    """The last dimension, counted by axes of these sizes, with its axes in another order."""
    kept = tensor.ndim - 1
    return tensor.unflatten(-1, sizes).permute(*range(kept), *(kept + axis for axis in order)).flatten(kept)


def _restore(tensor: Tensor, sizes: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    """What `_reorder` did, undone."""
    back = tuple(order.index(axis) for axis in range(len(order)))
    return _reorder(tensor, tuple(sizes[axis] for axis in order), back)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same; of those without numbers, whether they could."""
    return a.shape == b.shape and (a.is_meta or b.is_meta or torch.equal(a, b))


def to_ours(
    state: Mapping[str, Tensor], rules: Iterable[Rule], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """A foreign state dict under our keys -> (tensors, unexpected keys, keys dropped on purpose).

    shapes: of our state dict; they say how a stack of tensors is cut.
    """
    compiled = [(_pattern(_side(rule.theirs)[0]), rule) for rule in rules]
    ours: dict[str, Tensor] = {}
    failed: list[str] = []  # a rule fits, the tensors do not
    unmatched: list[str] = []
    dropped: list[str] = []
    used: set[str] = set()
    for key, tensor in state.items():
        found = next(((match, rule) for pattern, rule in compiled if (match := pattern.fullmatch(key))), None)
        if found is None:
            unmatched.append(key)
            continue
        match, rule = found
        parts = match.groups()
        sources = [_fill(text, parts) for text in _side(rule.theirs)]
        used.update(sources)
        targets = [_fill(text, parts) for text in _side(rule.ours)] if rule.ours is not None else []
        if rule.ours is None or (rule.optional and not any(target in shapes for target in targets)):
            dropped.append(key)
            continue
        if any(source not in state for source in sources):
            failed.append(key)
            continue
        if rule.tied:
            if not all(_same(tensor, state[source]) for source in sources):
                failed.append(key)
                continue
            sources = sources[:1]
        whole = tensor if len(sources) == 1 else torch.cat([state[source] for source in sources], rule.dim)
        if rule.theirs_ndim == 0 and whole.ndim == 0:
            whole = whole.reshape(1)
        elif rule.theirs_ndim is not None and whole.ndim > 1:
            whole = whole.flatten(0 if rule.theirs_ndim == 3 and whole.shape[1:] == (1, 1) else 1)
        if rule.bgr is not None:
            if whole.ndim > rule.bgr and whole.shape[rule.bgr] < 3 + rule.behind:
                failed.append(key)
                continue
            whole = _turn_round(whole, rule.bgr, rule.behind)
        if rule.axes is not None:
            if whole.shape[-1] % abs(math.prod(rule.axes[0])):
                failed.append(key)
                continue
            whole = _reorder(whole, *rule.axes)
        if rule.transposed:
            whole = whole.mT.contiguous()
        if rule.rolled:
            whole = whole.roll(-rule.rolled, 0)
        if len(targets) == 1:
            ours[targets[0]] = whole
        elif all(t in shapes for t in targets) and whole.shape[rule.dim] == sum(shapes[t][rule.dim] for t in targets):
            ours.update(zip(targets, whole.split([shapes[t][rule.dim] for t in targets], rule.dim), strict=True))
        else:
            failed.append(key)
    # the second and third keys of a stack match no pattern of their own: they were used with the first
    return ours, failed + [key for key in unmatched if key not in used], dropped


def to_theirs(state: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """Our state dict under a foreign layout's keys: the table read backwards.  Raises KeyError for a key without a rule."""
    compiled = [(_pattern(_side(rule.ours)[0]), rule) for rule in rules if rule.ours is not None]
    others = [_pattern(text) for rule in rules if rule.ours is not None for text in _side(rule.ours)[1:]]
    theirs: dict[str, Tensor] = {}
    for key, tensor in state.items():
        for pattern, rule in compiled:
            match = pattern.fullmatch(key)
            if match is None or rule.ours is None:
                continue
            parts = match.groups()
            sources = [_fill(text, parts) for text in _side(rule.ours)]
            whole = tensor if len(sources) == 1 else torch.cat([state[source] for source in sources], rule.dim)
            if rule.theirs_ndim == 0:
                whole = whole.reshape(())
            elif rule.theirs_ndim is not None and (whole.ndim > 1 or rule.theirs_ndim == 3):
                whole = whole.reshape(*whole.shape, *(1,) * (rule.theirs_ndim - whole.ndim))
            if rule.bgr is not None:
                whole = _turn_round(whole, rule.bgr, rule.behind)
            if rule.axes is not None:
                whole = _restore(whole, *rule.axes)
            if rule.transposed:
                whole = whole.mT.contiguous()
            if rule.rolled:
                whole = whole.roll(rule.rolled, 0)
            targets = [_fill(text, parts) for text in _side(rule.theirs)]
            if rule.tied:
                parts_of_whole: tuple[Tensor, ...] = (whole,) * len(targets)
            else:
                parts_of_whole = (whole,) if len(targets) == 1 else whole.chunk(len(targets), rule.dim)
            theirs.update(zip(targets, parts_of_whole, strict=True))
            break
        else:
            if not any(pattern.fullmatch(key) for pattern in others):
                raise KeyError(f"the key table has no rule for our key {key!r}")
    return theirs


def adapt_input_channels(weight: Tensor, in_channels: int) -> Tensor:
    """(O, C, k, k) -> (O, in_channels, k, k): summed for one channel, else cycled and rescaled so that the response to
    an image with equal channels stays (timm's and smp's rule)."""
    given = weight.shape[1]
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    cycled = weight[:, [i % given for i in range(in_channels)]]
    return cycled * (given / in_channels)


Carriers = Mapping[str, Callable[[str, Tensor], Tensor]]


def carriers(model: torch.nn.Module, prefix: str = "") -> Carriers:
    """Key of each parameter whose module can `carry(name, tensor)` one of another size over: tables of positions that were
    learned on another grid -> that method.  A tensor that it cannot carry it gives back as it is."""
    found: dict[str, Callable[[str, Tensor], Tensor]] = {}
    for path, module in model.named_modules():
        carry: Any = getattr(module, "carry", None)
        if carry is not None:
            own = (name for name, _ in module.named_parameters(recurse=False))
            found |= {".".join(filter(None, (prefix, path, name))): carry for name in own}
    return found


def fit(
    wanted: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    rules: Iterable[Rule] | None = None,
    channels: tuple[int, int] | None = None,
    carried: Carriers | None = None,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Which tensors of `state` fit into a state dict, and the report of all; nothing is loaded.

    wanted     ours; only shapes and types are read, so that it may lie on the meta device
    rules      the key table of `state`; None: its keys are ours
    channels   input channels (of the file, of the model): first convolutions are adapted where they differ
    carried    how tensors of another size are brought to ours (`carriers`)
    """
    report = LoadReport()
    given = _under_our_keys(wanted, state, rules, report)
    fitting: dict[str, Tensor] = {}
    for key, ours in wanted.items():
        if key not in given:
            # the count of batches matters to no output, and old checkpoints have none
            if not key.endswith("num_batches_tracked"):
                report.missing.append(key)
            continue
        tensor = given[key]
        if channels is not None and _is_first(tensor, ours, channels):
            tensor = adapt_input_channels(tensor, channels[1])
            report.adapted.append(key)
        if tensor.shape != ours.shape and carried and key in carried:
            tensor = carried[key](key.rpartition(".")[2], tensor)
            if tensor.shape == ours.shape:
                report.adapted.append(key)
        if tensor.shape == ours.shape:
            fitting[key] = tensor.to(ours.dtype)
            report.loaded.append(key)
        else:
            report.mismatched.append((key, tuple(tensor.shape), tuple(ours.shape)))
    return fitting, report


def _under_our_keys(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], rules: Iterable[Rule] | None, report: LoadReport
) -> dict[str, Tensor]:
    """`state` by our keys; notes in the report what it has beyond ours, and what its table leaves out."""
    given = dict(state)
    if rules is not None:
        shapes = {key: tuple(tensor.shape) for key, tensor in wanted.items()}
        given, report.unexpected, report.dropped = to_ours(state, rules, shapes)
    report.unexpected += [key for key in given if key not in wanted]
    return given


def _is_first(tensor: Tensor, ours: Tensor, channels: tuple[int, int]) -> bool:
    """Whether both are the same convolution of an image, of other channels."""
    stored, model = channels
    if stored == model or ours.ndim != 4 or ours.shape[1] != model:
        return False
    return tuple(tensor.shape) == (ours.shape[0], stored, *ours.shape[2:])


def load_state(
    model: torch.nn.Module,
    state: Mapping[str, Tensor],
    *,
    rules: Iterable[Rule] | None = None,
    channels: tuple[int, int] | None = None,
    strict: bool = True,
    replace_head: bool = False,
) -> LoadReport:
    """Loads a state dict, through a key table if one is given, and reports what fitted.

    channels        input channels (of the file, of the model): first convolutions are adapted where they differ
    strict          raise LoadError unless every tensor of the model is filled and every tensor of the file used
    replace_head    tensors of other outputs (the classifier of other classes) keep the model's own values
    """
    fitting, report = fit(model.state_dict(), state, rules, channels, carriers(model))
    excused = new_heads(model, report) if replace_head else set()
    if strict:
        require(report, type(model).__name__, excused)
    model.load_state_dict(fitting, strict=False)
    return report


def require(report: LoadReport, name: str, excused: Collection[str] = ()) -> None:
    """Raises LoadError unless all tensors of `name` are filled and all of the file used; mis-shaped ones may be excused."""
    if report.missing or report.unexpected or any(key not in excused for key, _, _ in report.mismatched):
        total = len(report.loaded) + len(report.missing) + len(report.mismatched)
        raise LoadError(
            f"the weights do not fit {name}: {len(report.loaded)} of {total} tensors. "
            "Give the arguments that the weights were made with, the right layout, or strict=False to take what fits",
            report,
        )


def new_heads(model: torch.nn.Module, report: LoadReport) -> set[str]:
    """The mis-shaped tensors that differ in their outputs alone."""
    heads = set()
    for key, given, wanted in report.mismatched:
        layer = model.get_submodule(key.rpartition(".")[0])
        # a transposed convolution's outputs stand second
        outputs = int(isinstance(layer, torch.nn.ConvTranspose2d) and len(wanted) > 1)
        if [n for d, n in enumerate(given) if d != outputs] == [n for d, n in enumerate(wanted) if d != outputs]:
            heads.add(key)
    return heads
