"""unit_groups: the slices that it names, the units that it refuses, and its trials."""

from __future__ import annotations

import pytest
import torch
from stranger_sequences import Encoder, GroupedQueries
from strangers import STRANGERS
from torch import Tensor, nn
from zoo import BY_NAME, CASES

import l0func as l0
from l0func import axis, blocks, tiles
from l0func.spec.plan import Group

FOUND = {
    "mlp": {"0": 6},
    "mlp_dropout": {"0": 6},
    "cnn": {"0": 3},
    "cnn_train": {"0": 3},
    "residual": {"conv1": 3},
    "residual_train": {"conv1": 3},
    "lstm": {"rnn.weight_ih_l0": 4, "rnn.weight_ih_l1": 4},
    "lstm_dropout": {"rnn.weight_ih_l0": 4, "rnn.weight_ih_l1": 4},
    "gru": {"rnn.weight_ih_l0": 4, "rnn.weight_ih_l0_reverse": 4},
    "rnn": {"rnn": 4},
    "attention": {"mha": 2},
    "encoder": {"self_attn": 2, "linear1": 6},
    "encoder_eval": {"self_attn": 2, "linear1": 6},
    "bags": {"bag": 4},
    "inception": {
        "stem": 6,
        "one": 4,
        "three.0": 3,
        "three.2": 5,
        "five.0": 2,
        "five.2": 3,
        "pooled.1": 4,
    },
    "separable": {"stem.0": 6, "expand.0": 12, "squeeze": 4},
    "resnet": {
        "stem.0": 6,
        **{f"stages.{i}.conv1": (6, 6, 8, 8)[i] for i in range(4)},
        "stages.2.conv2": 8,
    },
    "resnext": {"enter": 4},
    "densenet": {"stem": 4, "layers.0.2": 3, "layers.1.2": 3, "layers.2.2": 3},
    "encoder_of_linears": {
        f"blocks.{i}.{name}": n
        for i in range(2)
        for name, n in (("attention.query", 4), ("mlp.0", 10))
    },
    "grouped_queries": {"q": 2},
    "last_state": {"lstm": 6},
    "folded": {"enter": 5, "conv": 6},
    "conv1d": {"0": 6, "3": 4},
    "rms_norms": {
        "words": 8,
        **{f"blocks.{i}.{name}": n for i in range(2) for name, n in (("q", 6), ("gate", 9))},
    },
    "without_affine": {"0": 4, "2": 6},
    "unflattened": {"0": 5, "3": 4},
}
NOTHING = {
    "functions": "output of the module",
    "conv_dropout": "output of the module",
    "lstm_time_first": "output of the module",
    "lstm_cell": "output of the module",
    "words": "'native_layer_norm', runs over them",
    "tied": "joined with an input",
    "two_inputs": "output of the module",
    "norms": "output of the module",
    "bilinear": "output of the module",
    "weight_norm": "'linalg_vector_norm', which cannot be followed",
}


@pytest.mark.parametrize("case", [c for c in (*CASES, *STRANGERS) if c.name in FOUND], ids=repr)
def test_the_units_of_a_module_that_no_one_described_are_found(case):
    groups = l0.unit_groups(case.build(), case.batch())
    assert groups.sizes == FOUND[case.name]
    assert set(groups) == set(groups.sizes)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in NOTHING], ids=repr)
def test_where_nothing_can_go_the_reason_is_named(case):
    with pytest.raises(ValueError, match=NOTHING[case.name]):
        l0.unit_groups(case.build(), case.batch())


def test_every_module_of_the_zoo_has_an_expectation():
    assert {c.name for c in CASES} == {c.name for c in CASES} & (FOUND.keys() | NOTHING.keys())


def slices(group: Group) -> tuple[dict, dict]:
    return ({path: list(rules) for path, rules in part} for part in (group.multiplies, group.owns))


def test_a_hidden_units_gate_multiplies_its_column_and_owns_its_row_bias_and_statistics():
    case = BY_NAME["cnn"]
    multiplies, owns = slices(l0.unit_groups(case.build(), case.batch())["0"])
    assert multiplies == {"4.weight": [blocks(1, 16)]}
    assert owns == {
        path: [axis(0)]
        for path in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    }


def test_a_head_owns_three_runs_of_packed_rows():
    case = BY_NAME["attention"]
    multiplies, owns = slices(l0.unit_groups(case.build(), case.batch())["mha"])
    assert multiplies == {"mha.out_proj.weight": [blocks(1, 2)]}
    runs = [blocks(0, 2, 0, 4), blocks(0, 2, 4, 8), blocks(0, 2, 8)]
    assert owns == {"mha.in_proj_weight": runs, "mha.in_proj_bias": runs}


def test_a_recurrent_unit_owns_its_rows_in_every_tile_and_is_read_by_its_own_layer():
    case = BY_NAME["lstm"]
    multiplies, owns = slices(l0.unit_groups(case.build(), case.batch())["rnn.weight_ih_l0"])
    assert multiplies == {"rnn.weight_hh_l0": [axis(1)], "rnn.weight_ih_l1": [axis(1)]}
    assert set(owns) == {
        f"rnn.{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    assert all(rules == [tiles(0, 4)] for rules in owns.values())


def test_a_residual_stream_goes_together_and_concatenated_readers_have_offsets():
    by_name = {c.name: c for c in STRANGERS}
    resnet = l0.unit_groups(by_name["resnet"].build(), by_name["resnet"].batch())
    _, owns = slices(resnet["stem.0"])
    assert {"stages.0.conv2.weight", "stages.1.conv2.weight", "stages.1.bn2.running_var"} <= set(
        owns
    )
    unet = l0.unit_groups(by_name["unet"].build(), by_name["unet"].batch())
    multiplies, _ = slices(unet["up1"])
    assert multiplies == {"join1.0.weight": [axis(1, 6)]}


@pytest.mark.skipif(
    not hasattr(nn, "RMSNorm"), reason="torch 2.4 was the first to have nn.RMSNorm"
)
def test_under_an_rms_norm_the_gate_is_on_what_makes_the_stream():
    case = next(c for c in STRANGERS if c.name == "rms_norms")
    groups = l0.unit_groups(case.build(), case.batch())
    multiplies, owns = slices(groups["words"])
    writers = {"words.weight", "positions"}
    for i in range(2):
        writers |= {f"blocks.{i}.o.weight", f"blocks.{i}.o.bias"}
        writers |= {f"blocks.{i}.down.weight", f"blocks.{i}.down.bias"}
    assert set(multiplies) == writers
    assert {"blocks.0.norm1.weight", "norm.weight", "blocks.0.q.weight", "head.weight"} <= set(
        owns
    )
    assert groups.normed == {"words"}


def test_attributes_that_forward_reads_sizes_from_are_found_by_trial():
    groups = l0.unit_groups(Encoder(), torch.randint(0, 11, (2, 4)))
    attrs = groups["blocks.0.attention.query"].attrs
    assert attrs == {
        "blocks.0.attention.num_attention_heads": 1,
        "blocks.0.attention.all_head_size": 2,
    }
    assert l0.unit_groups(GroupedQueries(), torch.randn(2, 3, 6))["q"].attrs == {
        "n_heads": 2,
        "n_kv": 1,
    }


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h) if h.sum() > 0 else self.b(-h)


def test_a_forward_that_branches_on_data_is_refused():
    with pytest.raises(ValueError, match="branches on data: '_local_scalar_dense'"):
        l0.unit_groups(Branching(), torch.randn(2, 3))


class Odd(nn.Module):
    """A hidden layer before an operation that cannot lose units."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.a, self.b = kind, nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.kind == "fft":
            h = torch.fft.rfft(h, dim=-1).real.repeat(1, 2)[:, :4]
        if self.kind == "softmax":
            h = h.softmax(-1)
        if self.kind == "fixed":
            h = h.reshape(-1, 2, 2).transpose(1, 2).reshape(-1, 4)
        if self.kind == "flip":
            h = h.flip(-1)
        if self.kind == "mean":
            h = h - h.mean(-1, keepdim=True)
        return self.b(h)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("fft", "the operation '_fft_r2c' runs over them"),
        ("softmax", "the operation '_softmax' runs over them"),
        ("mean", "the operation 'mean' runs over them"),
        ("fixed", "in the forward of Odd, torch function 'reshape': RuntimeError: shape"),
        ("flip", "in an order that no rule has"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_the_name_of_the_operation(kind, match):
    with pytest.raises(ValueError, match=match):
        l0.unit_groups(Odd(kind), torch.randn(3, 3))


class FixedView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.free, self.b = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.free(self.a(x).view(-1, 6))))


def test_a_size_written_into_forward_costs_only_the_units_behind_it():
    groups = l0.unit_groups(FixedView(), torch.randn(3, 3))
    assert groups.sizes == {"free": 5}
    assert "shape '[-1, 6]' is invalid" in groups.refused["a.weight"]
    assert "stays a.weight: a trial" in repr(groups)


def test_an_average_of_heads_that_no_one_reads_does_not_keep_the_heads():
    class Plain(nn.Module):
        def __init__(self, shown: bool) -> None:
            super().__init__()
            self.mha, self.shown = nn.MultiheadAttention(4, 2, batch_first=True), shown

        def forward(self, x: Tensor) -> Tensor:
            y, weights = self.mha(x, x, x)
            return (y, weights) if self.shown else y

    assert l0.unit_groups(Plain(shown=False), torch.randn(2, 3, 4)).sizes == {"mha": 2}
    with pytest.raises(ValueError, match="'mean' runs over them"):
        l0.unit_groups(Plain(shown=True), torch.randn(2, 3, 4))


@pytest.mark.parametrize("case", [c for c in (*CASES, *STRANGERS) if c.name in FOUND], ids=repr)
def test_finding_changes_nothing(case):
    module = case.build()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = torch.get_rng_state()
    modes = [m.training for m in module.modules()]
    l0.unit_groups(module, case.batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert modes == [m.training for m in module.modules()]


def test_a_spec_of_the_wrong_kind_is_named():
    module = BY_NAME["mlp"].build()
    groups = l0.unit_groups(module, torch.randn(2, 4))
    fn, params, buffers = l0.make_functional(module)
    with pytest.raises(
        TypeError, match=r"A gate spec comes from l0func.gate_spec; got UnitGroups"
    ):
        l0.compact(fn, params, {"0": torch.zeros(6)}, buffers, groups)
    with pytest.raises(TypeError, match="got UnitGroups"):
        l0.prune(params, {"0": torch.zeros(6)}, groups)
