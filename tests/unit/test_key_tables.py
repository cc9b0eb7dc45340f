"""Key tables and strict loading: every key accounted for, both ways; first convolutions for other input channels."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from segmentarium.weights.table import LoadError, LoadReport, Rule, adapt_input_channels, load_state, to_ours, to_theirs

# key tables -------------------------------------------------------------------------------------------------------------


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def test_patterns_carry_parts_over_in_order() -> None:
    state = {"stage.2.block.7.conv.weight": torch.ones(1), "head.a.b.c": torch.ones(2)}
    rules = [Rule("stage.{}.block.{}.conv.{*}", "s{}.b{}.{*}"), Rule("head.{*}", "classifier.{*}")]
    ours, unexpected, dropped = to_ours(state, rules, {})
    assert shapes(ours) == {"s2.b7.weight": (1,), "classifier.a.b.c": (2,)}
    assert (unexpected, dropped) == ([], [])
    assert to_theirs(ours, rules).keys() == state.keys()


def test_a_part_ends_at_a_dot_and_a_rest_does_not() -> None:
    rules = [Rule("a.{}.w", "one.{}")]
    assert to_ours({"a.b.c.w": torch.ones(1)}, rules, {})[1] == ["a.b.c.w"]
    assert to_ours({"aXb.w": torch.ones(1)}, rules, {})[1] == ["aXb.w"]  # a dot in a pattern is a dot


def test_the_first_rule_that_fits_counts() -> None:
    rules = [Rule("head.special", "special"), Rule("head.{}", "other.{}")]
    ours, *_ = to_ours({"head.special": torch.ones(1), "head.x": torch.ones(1)}, rules, {})
    assert set(ours) == {"special", "other.x"}


@pytest.mark.parametrize("suffix", ["weight", "bias"])
def test_query_key_value_apart_become_a_stack_and_come_back(suffix: str) -> None:
    parts = {f"attn.0.{which}.{suffix}": torch.randn(4, 3) for which in ("q", "k", "v")}
    rules = [Rule(tuple(f"attn.{{}}.{which}.{{*}}" for which in ("q", "k", "v")), "blocks.{}.qkv.{*}")]
    ours, unexpected, _ = to_ours(parts, rules, {f"blocks.0.qkv.{suffix}": (12, 3)})
    assert unexpected == []
    assert torch.equal(ours[f"blocks.0.qkv.{suffix}"], torch.cat(list(parts.values())))
    back = to_theirs(ours, rules)
    assert back.keys() == parts.keys()
    assert all(torch.equal(back[key], value) for key, value in parts.items())


def test_a_stack_becomes_parts_of_the_sizes_that_the_model_has() -> None:
    stack = {"attn.0.qkv.weight": torch.randn(10, 3)}
    rules = [Rule("attn.{}.qkv.{*}", ("blocks.{}.q.{*}", "blocks.{}.kv.{*}"))]
    ours, unexpected, _ = to_ours(stack, rules, {"blocks.0.q.weight": (4, 3), "blocks.0.kv.weight": (6, 3)})
    assert unexpected == []
    assert shapes(ours) == {"blocks.0.q.weight": (4, 3), "blocks.0.kv.weight": (6, 3)}
    assert torch.equal(to_theirs(ours, rules)["attn.0.qkv.weight"], stack["attn.0.qkv.weight"])
    wrong = to_ours(stack, rules, {"blocks.0.q.weight": (4, 3), "blocks.0.kv.weight": (4, 3)})
    assert wrong[1] == ["attn.0.qkv.weight"]


def test_an_incomplete_stack_is_unexpected() -> None:
    rules = [Rule(("attn.q", "attn.k"), "qk")]
    ours, unexpected, _ = to_ours({"attn.q": torch.ones(2)}, rules, {"qk": (4,)})
    assert (ours, unexpected) == ({}, ["attn.q"])
    assert to_ours({"attn.k": torch.ones(2)}, rules, {"qk": (4,)})[1] == ["attn.k"]


def test_one_tensor_under_two_keys_is_held_once_and_comes_back_twice() -> None:
    rule = Rule(("key.{}", "query.{}"), "shared.{}", tied=True)
    weight = torch.randn(4, 3)
    theirs = {"key.weight": weight, "query.weight": weight.clone()}
    ours, unexpected, _ = to_ours(theirs, [rule], {"shared.weight": (4, 3)})
    assert unexpected == []
    assert torch.equal(ours["shared.weight"], weight)
    back = to_theirs(ours, [rule])
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], weight) for key in theirs)
    parted = theirs | {"query.weight": weight + 1}  # ours has no place for two
    assert to_ours(parted, [rule], {})[:2] == ({}, ["key.weight"])


def test_a_pointwise_convolution_is_a_linear_layer_and_back() -> None:
    state = {"mlp.fc.weight": torch.randn(8, 4, 1, 1), "mlp.fc.bias": torch.randn(8)}
    rules = [Rule("mlp.fc.{*}", "linear.{*}", theirs_ndim=4)]
    ours, *_ = to_ours(state, rules, {})
    assert shapes(ours) == {"linear.weight": (8, 4), "linear.bias": (8,)}
    back = to_theirs(ours, rules)
    assert shapes(back) == shapes(state)
    assert torch.equal(back["mlp.fc.weight"], state["mlp.fc.weight"])


def test_factors_of_a_map_s_channels_are_a_vector_and_back() -> None:
    rule = Rule("scale", "gamma", theirs_ndim=3)
    theirs = {"scale": torch.randn(5, 1, 1)}
    ours, unexpected, _ = to_ours(theirs, [rule], {"gamma": (5,)})
    assert (ours["gamma"].shape, unexpected) == ((5,), [])
    assert torch.equal(to_theirs(ours, [rule])["scale"], theirs["scale"])


def test_a_scalar_is_a_vector_of_one_and_back() -> None:
    rule = Rule("gamma.scale", "gamma", theirs_ndim=0)
    ours, unexpected, _ = to_ours({"gamma.scale": torch.tensor(0.5)}, [rule], {"gamma": (1,)})
    assert (ours["gamma"].tolist(), unexpected) == ([0.5], [])
    assert to_theirs(ours, [rule])["gamma.scale"].shape == ()


def test_the_background_s_rows_move_to_the_end_and_back() -> None:
    rules = (Rule("score.{}", "classes.{}", rolled=1), Rule("box.{}", "deltas.{}", rolled=4))
    theirs = {"score.weight": torch.arange(3.0)[:, None], "box.bias": torch.arange(12.0)}
    ours, unexpected, _ = to_ours(theirs, rules, {})
    assert not unexpected
    assert ours["classes.weight"][:, 0].tolist() == [1, 2, 0]
    assert ours["deltas.bias"].tolist() == [*range(4, 12), *range(4)]
    assert all(torch.equal(value, theirs[key]) for key, value in to_theirs(ours, rules).items())


def test_weights_for_blue_first_are_turned_round_and_back() -> None:
    """theirs sees the image beside two features, blue first; ours sees it red first."""
    theirs = {"norm.weight": torch.arange(5.0), "conv.weight": torch.randn(4, 5, 3, 3), "norm.count": torch.tensor(7)}
    rules = [Rule("norm.{}", "a.{}", bgr=0), Rule("conv.{}", "b.{}", bgr=1)]
    ours, unexpected, _ = to_ours(theirs, rules, {})
    assert unexpected == []
    assert ours["a.weight"].tolist() == [0, 1, 4, 3, 2]
    x = torch.randn(1, 5, 6, 6)
    turned = x[:, [0, 1, 4, 3, 2]]
    expected = nn.functional.conv2d(x, theirs["conv.weight"])
    torch.testing.assert_close(nn.functional.conv2d(turned, ours["b.weight"]), expected)
    back = to_theirs(ours, rules)
    assert all(torch.equal(back[key], value) for key, value in theirs.items())


def test_one_grey_channel_has_no_blue() -> None:
    rules = [Rule("conv.{}", "b.{}", bgr=1)]
    grey = torch.ones(4, 1, 3, 3)
    assert to_ours({"conv.weight": grey}, rules, {})[1] == ["conv.weight"]
    with pytest.raises(ValueError, match="three colours"):
        to_theirs({"b.weight": grey}, rules)


def test_another_order_of_the_last_dimension_and_back() -> None:
    """Theirs unfolds 2×2 places within each channel, row by row; ours stacks channels, column by column."""
    rules = [Rule("merge.{}", "m.{}", axes=((-1, 2, 2), (2, 1, 0)))]
    state = {"merge.weight": torch.randn(5, 12), "merge.bias": torch.randn(12)}
    ours, unexpected, _ = to_ours(state, rules, {})
    assert unexpected == []
    channel, row, column = 2, 0, 1
    assert torch.equal(ours["m.weight"][:, (column * 2 + row) * 3 + channel], state["merge.weight"][:, 9])
    assert ours["m.bias"][(column * 2 + row) * 3 + channel] == state["merge.bias"][9]
    back = to_theirs(ours, rules)
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert to_ours({"merge.weight": torch.randn(5, 10)}, rules, {})[:2] == ({}, ["merge.weight"])


def test_a_module_carries_its_table_of_another_size_over() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(4))
            self.other = nn.Parameter(torch.zeros(4))

        def carry(self, name: str, tensor: Tensor) -> Tensor:
            return tensor[:4] if name == "table" else tensor

    model = nn.Sequential(Table())
    report = load_state(model, {"0.table": torch.ones(6), "0.other": torch.ones(4)})
    assert (report.adapted, report.complete) == (["0.table"], True)
    assert torch.equal(model[0].table, torch.ones(4))
    for state in ({"0.table": torch.ones(2)}, {"0.other": torch.ones(6)}):
        with pytest.raises(LoadError, match=f"mis-shaped: {next(iter(state))} is"):
            load_state(model, {"0.table": torch.ones(4), "0.other": torch.ones(4)} | state)


def test_dropped_keys_are_reported_and_do_not_come_back() -> None:
    rules = [Rule("unused.{*}", None), Rule("w", "weight")]
    ours, unexpected, dropped = to_ours({"unused.a.b": torch.ones(1), "w": torch.ones(1)}, rules, {})
    assert (set(ours), unexpected, dropped) == ({"weight"}, [], ["unused.a.b"])
    assert set(to_theirs(ours, rules)) == {"w"}


def test_a_key_of_ours_without_a_rule_cannot_go_back() -> None:
    with pytest.raises(KeyError, match="no rule for our key 'other'"):
        to_theirs({"other": torch.ones(1)}, [Rule("w", "weight")])


def test_recognising_builds_nothing_and_does_not_wake_pytorch_s_compiler() -> None:
    """Drawing weights on the meta device would import it, which takes longer than loading any file."""
    code = """
import sys
import torch
from segmentarium.registry import entry
from segmentarium.weights.layouts import layouts, shapes_of
for layout in layouts().values():
    wanted = [name for name in ("num_classes", "num_joints") if entry(layout.model).takes(name)]
    shapes = shapes_of(layout.model, dict.fromkeys(wanted, 3))
    assert all(tensor.is_meta for tensor in shapes.values()), layout.name
assert "torch._dynamo" not in sys.modules, "the compiler was imported"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# strict loading ---------------------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    def __init__(self, num_classes: int = 4, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stem = nn.Conv2d(in_channels, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


def test_full_coverage_loads_and_says_so() -> None:
    source, target = Tiny(), Tiny()
    report = load_state(target, source.state_dict())
    assert report.complete
    assert len(report.loaded) == len(source.state_dict())
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_a_count_of_batches_may_lack() -> None:
    state = {key: value for key, value in Tiny().state_dict().items() if "num_batches" not in key}
    assert load_state(Tiny(), state).complete


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("head.bias"), "missing in the file: head.bias"),
        (lambda state: state.update(extra=torch.ones(1)), "unexpected in the file: extra"),
        (
            lambda state: state.update({"head.bias": torch.ones(9)}),
            r"mis-shaped: head.bias is \(9,\) in the file, \(4,\) in the model",
        ),
    ],
)
def test_less_than_full_coverage_is_refused_and_nothing_is_loaded(change, expected: str) -> None:
    state = Tiny().state_dict()
    change(state)
    target = Tiny()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(LoadError, match=expected) as refused:
        load_state(target, state)
    assert not refused.value.report.complete
    assert "the weights do not fit Tiny: " in str(refused.value)
    assert "or strict=False to take what fits" in str(refused.value)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    report = load_state(target, state, strict=False)
    assert torch.equal(target.stem.weight, state["stem.weight"])
    assert str(report) in str(refused.value)


def test_the_report_is_a_table_by_part() -> None:
    report = LoadReport(
        loaded=["body.a", "body.b", "head.w"],
        missing=[f"body.{i}" for i in range(10)],
        unexpected=["theirs.x"],
        mismatched=[("head.b", (19,), (7,))],
    )
    lines = str(report).splitlines()
    assert lines[0].split() == ["part", "loaded", "missing", "mis-shaped", "unexpected"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:4]}
    assert rows == {
        "body": ["2", "10", "0", "0"],
        "head": ["1", "0", "1", "0"],
        "theirs": ["0", "0", "0", "1"],
    }
    assert "missing in the file: body.0, body.1, body.2, body.3, body.4, body.5, body.6, body.7 and 2 more" in lines


def test_replace_head_keeps_the_model_s_own_classifier() -> None:
    source, target = Tiny(19), Tiny(4)
    own = target.head.weight.clone()
    report = load_state(target, source.state_dict(), replace_head=True)
    assert [key for key, _, _ in report.mismatched] == ["head.weight", "head.bias"]
    assert torch.equal(target.head.weight, own)
    assert torch.equal(target.stem.weight, source.stem.weight)


def test_replace_head_does_not_excuse_another_trunk() -> None:
    state = Tiny().state_dict()
    state["stem.weight"] = torch.randn(6, 3, 5, 5)
    with pytest.raises(LoadError, match=r"mis-shaped: stem.weight"):
        load_state(Tiny(), state, replace_head=True)


# input channels ---------------------------------------------------------------------------------------------------------


def test_one_channel_is_the_sum() -> None:
    weight = torch.randn(5, 3, 3, 3)
    assert torch.equal(adapt_input_channels(weight, 1), weight.sum(1, keepdim=True))
    assert torch.equal(adapt_input_channels(weight, 3), weight)


def test_more_channels_are_cycled_and_rescaled() -> None:
    weight = torch.randn(5, 3, 3, 3)
    adapted = adapt_input_channels(weight, 4)
    assert torch.allclose(adapted, weight[:, [0, 1, 2, 0]] * 0.75)


@pytest.mark.parametrize("in_channels", [1, 2, 4, 6, 9])
def test_the_response_to_equal_channels_stays(in_channels: int) -> None:
    weight = torch.ones(5, 3, 3, 3) * torch.randn(5, 1, 3, 3)  # no preference for a channel: exact for any number
    grey = torch.randn(1, 1, 16, 16)
    before = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    after = nn.functional.conv2d(grey.expand(-1, in_channels, -1, -1), adapt_input_channels(weight, in_channels))
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("in_channels", [1, 6])
def test_the_response_of_any_weights_to_equal_channels_stays(in_channels: int) -> None:
    weight = torch.randn(5, 3, 3, 3)
    grey = torch.randn(1, 1, 16, 16)
    before = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    after = nn.functional.conv2d(grey.expand(-1, in_channels, -1, -1), adapt_input_channels(weight, in_channels))
    assert torch.allclose(before, after, atol=1e-5)
