"""Do the model's classes fit those of the data, and if not quite, which logits count?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RGB = tuple[int, int, int]

# What checkpoints call a last channel that their own evaluation leaves out.
VOID_NAMES = frozenset({"void", "unlabelled", "unlabeled", "ignore", "ignored", "unknown", "undefined"})


@dataclass(frozen=True)
class ClassMatch:
    """How logits become the classes of a data set.

    names    of the K scored classes; two for a model of one sigmoid logit
    palette  their colours
    select   channels of the logits, in the order of `names`; None: all of them, as they are
    notes    what a reader of the scores should know of it
    """

    names: tuple[str, ...]
    palette: tuple[RGB, ...]
    select: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    def logits(self, logits: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, K or 1, H, W): those channels that count."""
        if self.select is None:
            return logits
        if self.select == tuple(range(len(self.select))):
            return logits[:, : len(self.select)]
        return logits[:, torch.tensor(self.select, device=logits.device)]


def match_classes(
    channels: int,
    model_classes: Sequence[str],
    data_classes: Sequence[str],
    data_palette: Sequence[RGB],
    num_classes: int | None = None,
) -> ClassMatch:
    """The match of a model of `channels` logits with the classes of a data set.

    As many logits as classes fit as they are; the same names in another order are brought into the data's order; one
    sigmoid logit fits two classes. A last logit that the model calls void is left out. Further logits are left out
    only where `num_classes` says so: then the first `num_classes` logits count, and no others.

    Raises ValueError where the numbers do not fit, with both lists.
    """
    names, palette = tuple(data_classes), tuple(data_palette)
    if len(names) == 1:  # one class beside the background: labels are 0 and 1
        names, palette = ("background", names[0]), ((0, 0, 0), palette[0] if palette[0] != (0, 0, 0) else (255, 64, 64))
    count = len(names)
    if num_classes is not None and num_classes != count:
        raise ValueError(f"num_classes is {num_classes}, but the data have {count} classes: {_listed(names)}")
    if channels == 1 and count == 2:
        return ClassMatch(names, palette)
    if num_classes is not None and channels > count:
        note = f"only the first {count} of the model's {channels} logits count, as asked for by num_classes"
        return ClassMatch(names, palette, tuple(range(count)), (note,))
    if channels == count + 1 and len(model_classes) == channels and model_classes[-1].lower() in VOID_NAMES:
        note = f"the model's last class, {model_classes[-1]!r}, is left out: the data do not score it"
        return ClassMatch(names, palette, tuple(range(count)), (note, *_differences(model_classes[:-1], names)))
    if channels != count:
        advice = (
            f"if the first {count} logits are these classes, say so with num_classes={count} (--num-classes {count})"
            if channels > count
            else "train or load a model for these classes"
        )
        raise ValueError(
            f"the model gives {channels} classes ({_listed(model_classes)}), but the data have {count} "
            f"({_listed(names)}); {advice}"
        )
    order = _same_names_in_another_order(model_classes, names)
    if order is not None:
        note = "the model has the data's classes in another order; they were matched by name"
        return ClassMatch(names, palette, order, (note,))
    return ClassMatch(names, palette, None, _differences(model_classes, names))


def _same_names_in_another_order(model: Sequence[str], data: Sequence[str]) -> tuple[int, ...] | None:
    """The model's channel of each class of the data, where both have the same names but not at the same places."""
    ours, theirs = [_plain(n) for n in data], [_plain(n) for n in model]
    if ours == theirs or len(set(ours)) != len(ours) or sorted(ours) != sorted(theirs):
        return None
    return tuple(theirs.index(name) for name in ours)


def _differences(model: Sequence[str], data: Sequence[str]) -> tuple[str, ...]:
    """A note on classes with different names; none where the model's are mere numbers."""
    if len(model) != len(data) or all(name == f"class {i}" for i, name in enumerate(model)):
        return ()
    pairs = [(i, m, d) for i, (m, d) in enumerate(zip(model, data, strict=True)) if _plain(m) != _plain(d)]
    if not pairs:
        return ()
    shown = ", ".join(f"{i}: {m!r} and {d!r}" for i, m, d in pairs[:5]) + (" …" if len(pairs) > 5 else "")
    return (f"model and data name {len(pairs)} of {len(data)} classes differently ({shown})",)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", … {names[-1]}" if len(names) > most else "")
