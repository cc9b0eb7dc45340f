"""The mean of the weights of related networks (model soups, arXiv 2203.05482; WiSE-FT, 2109.01903)."""

from collections.abc import Mapping

import segmentarium
from segmentarium.contracts import Model


def average(shares: Mapping[str, float]) -> Model:
    """The model of the first file, with the mean of the weights of all, of which each has its share.

    Blocks that only the first has, whose last norm was zero at their start, take part in the others as zeros: there they would
    do nothing.
    """
    first, *others = shares
    model = segmentarium.load(first)
    states = [(shares[file], segmentarium.load(file).state_dict()) for file in others]
    mean = {}
    for name, value in model.state_dict().items():
        mean[name] = value
        if value.is_floating_point() and all(name in state for _, state in states):
            mean[name] = shares[first] * value + sum(share * state[name] for share, state in states)
        elif name.endswith(("project.norm.weight", "project.norm.bias")):
            mean[name] = shares[first] * value
    model.load_state_dict(mean)
    return model
