"""Other people's checkpoints.  One module a system, each with its `LAYOUTS`; recognised by full coverage of the keys."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache

from torch import Tensor

from segmentarium.checks import did_you_mean
from segmentarium.weights.table import Layout, to_ours

MODULES = (
    "bisenet",
    "bisenetv2",
    "cgnet",
    "contextnet",
    "deeplabv3plus",
    "dfanet",
    "efficientnet_lite",
    "enet",
    "erfnet",
    "extremec3",
    "fast_scnn",
    "fanet",
    "fcn",
    "icnet",
    "mobilenet_v2",
    "portraitnet",
    "pphumanseg",
    "pspnet",
    "regseg",
    "resnet",
    "segformer",
    "sfnet",
    "shelfnet",
    "sinet",
    "stdc",
    "swiftnet",
    "xception",
)


@cache
def layouts() -> dict[str, Layout]:
    """Every known layout by name ("bisenetv2/coincheung")."""
    found = {}
    for module in MODULES:
        for layout in importlib.import_module(f"{__name__}.{module}").LAYOUTS:
            found[layout.name] = layout
    return found


def get_layout(name: str) -> Layout:
    """The layout called `name`; KeyError that names near ones."""
    if name not in layouts():
        raise KeyError(f"no layout is called {name!r}{did_you_mean(name, sorted(layouts()))}")
    return layouts()[name]


def recognise(state: Mapping[str, Tensor]) -> Layout:
    """The one layout that has a rule for every key of `state` and whose arguments can be read off it.

    Raises ValueError if none or several fit; then name the layout.
    """
    from segmentarium.registry import entry

    fitting = []
    for layout in layouts().values():
        try:
            found = entry(layout.model)
            model = found.build(**{**found.arguments, **layout.arguments(state)})
        except (KeyError, ValueError, IndexError, TypeError):
            continue
        wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        ours, unexpected, _ = to_ours(state, layout.rules, wanted)
        filled = all(tuple(ours[key].shape) == shape for key, shape in wanted.items() if key in ours)
        missing = [key for key in wanted if key not in ours and not key.endswith("num_batches_tracked")]
        if filled and not unexpected and not missing and all(key in wanted for key in ours):
            fitting.append(layout)
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(sorted(layouts()))
    first = ", ".join(list(state)[:3])
    if not fitting:
        raise ValueError(f"no known layout has these keys ({first}, …); name it with layout=…; known: {known}")
    names = ", ".join(layout.name for layout in fitting)
    raise ValueError(f"several layouts fit these keys ({names}); name one with layout=…")
