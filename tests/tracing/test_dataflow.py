"""Units through operations that combine, move, join and sum elements; each family refuses some."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from traces import Between, Scaled, between, reason, sources, traced, units

WIDTH = 6


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        F.silu,
        lambda h: h * 2 + 1,
        lambda h: h.clone().mul_(3),
        lambda h: torch.where(h > 0, h, -h),
        lambda h: h.masked_fill(h < 0, 0.5),
    ],
)
def test_a_pointwise_function_keeps_every_unit_in_its_place(function):
    trace = between(function)
    assert sources(trace) == list(range(WIDTH))
    assert reason(trace, "first.weight") == ""


def test_elements_at_the_same_place_become_one_unit():
    trace = between(lambda h: h[:, :3] * h[:, 3:], out=3)
    rows = units(trace, "first.weight", 0)
    assert rows[:3] == rows[3:] == units(trace, "last.weight", 1)
    assert len(set(rows)) == 3


def test_a_unit_that_is_spread_over_others_is_refused():
    trace = between(lambda h: h[:, :1] * h[:, 1:], out=5)
    first, *others = [trace.units.reason(unit) for unit in units(trace, "first.weight", 0)]
    assert first == "they are spread over other units by 'mul'"
    assert others == [None] * 5


def test_a_scale_belongs_to_the_units_that_it_multiplies():
    trace = traced(Scaled(torch.ones(WIDTH), torch.mul), torch.ones(2, 4))
    assert units(trace, "scale", 0) == units(trace, "first.weight", 0)
    assert trace.slices["scale", 0].owns.all()
    assert sources(trace) == list(range(WIDTH))


@pytest.mark.parametrize(
    ("function", "scales"),
    [(torch.mul, True), (torch.div, True), (torch.add, False), (torch.maximum, False)],
)
def test_only_a_factor_or_divisor_is_a_scale(function, scales):
    trace = traced(Scaled(torch.ones(WIDTH), function), torch.ones(2, 4))
    assert trace.multipliers == ({"scale"} if scales else set())


def test_the_rows_of_a_table_that_forward_leaves_out_keep_nothing():
    trace = traced(Scaled(torch.ones(5, WIDTH), lambda h, w: h * w[:2]), torch.ones(2, 4))
    assert units(trace, "scale", 1) == units(trace, "first.weight", 0)
    assert reason(trace, "first.weight") == ""
    assert trace.kept_whole == {}


@pytest.mark.parametrize(
    "mixed",
    [lambda x: x, lambda x: x @ torch.ones(4, 4), lambda x: (torch.ones(4, 4) @ x.T).T],
)
def test_a_stream_that_starts_with_the_inputs_keeps_its_units_and_their_gate(mixed):
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.gate, self.last = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.inner(x) + mixed(x)) * self.gate(x)[:, :1])

    trace = traced(Gated(), torch.ones(2, 4))
    because = "they are joined with an input of the module"
    assert reason(trace, "inner.weight") == because
    assert trace.units.reason(units(trace, "gate.weight", 0)[0]) == because


@pytest.mark.parametrize(
    ("cut", "pieces"),
    [
        (lambda h: h.chunk(2, -1), {2}),
        (lambda h: h.split(2, -1), {3}),
        (lambda h: h.view(-1, 2, 3).unbind(1), {2}),
        (lambda h: h.split(4, -1)[:1], set()),
        (lambda h: [h[:, :3]], {2}),
    ],
)
def test_the_number_of_equal_pieces_that_units_are_cut_into_is_noted(cut, pieces):
    def joined(h: Tensor) -> Tensor:
        return torch.cat(list(cut(h)), -1)

    trace = between(joined, out=joined(torch.ones(2, 6)).shape[1])
    assert trace.pieces == pieces


def test_a_scale_for_all_pairs_of_units_lies_along_no_dimension_and_is_refused():
    trace = traced(
        Scaled(torch.ones(2, 3), lambda h, scale: (h.view(-1, 2, 3) * scale).flatten(1)),
        torch.ones(2, 4),
    )
    assert reason(trace, "first.weight") == "they lie along no single dimension of 'scale'"
    assert "no single dimension" in trace.kept_whole["scale"]


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h.flip(-1),
        lambda h: h.roll(2, -1),
        lambda h: h.repeat(1, 2),
        lambda h: h.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6),
        lambda h: h[:, 1::2],
        lambda h: h.index_select(1, torch.tensor([4, 0, 0])),
        lambda h: h.unsqueeze(1).expand(-1, 2, -1).flatten(1),
        lambda h: h.chunk(2, -1)[1],
        lambda h: torch.cat([h[:, 6:], h[:, 1:], *h.split([0, 6], -1)], -1),
    ],
)
def test_a_move_takes_units_where_it_takes_elements(function):
    # The naive twin: the function moves the units' numbers as it moves the units.
    moved = function(torch.arange(6.0).expand(2, 6))[0].int().tolist()
    trace = between(function, out=len(moved))
    assert sources(trace) == moved
    assert reason(trace, "first.weight") == ""


def test_a_transposed_parameter_is_read_along_the_dimension_that_it_had():
    trace = traced(Scaled(torch.ones(WIDTH, WIDTH), lambda h, w: h @ w.T), torch.ones(2, 4))
    assert units(trace, "scale", 1) == units(trace, "first.weight", 0)
    assert units(trace, "scale", 0) == units(trace, "last.weight", 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda w: w * 2,
        lambda w: w * torch.tensor(2.0),
        lambda w: torch.full((1, 1), 2.0) - w,
        lambda w: w.exp() - 1,
        lambda w: w + w,
        lambda w: torch.where(w > 0, w, 0.0),
    ],
)
def test_a_matrix_whose_entries_are_changed_one_by_one_is_read_as_before(function):
    trace = traced(
        Scaled(torch.ones(WIDTH, 3), lambda h, w: h @ function(w)[:, [0, 1, 2] * 2]),
        torch.ones(2, 4),
    )
    assert units(trace, "scale", 0) == units(trace, "first.weight", 0)
    assert reason(trace, "scale") == ""


@pytest.mark.parametrize("function", [lambda w: w * w.T, lambda w: w + w[:1]])
def test_a_matrix_whose_entries_are_combined_with_others_is_refused(function):
    trace = traced(
        Scaled(torch.ones(WIDTH, WIDTH), lambda h, w: h @ function(w)), torch.ones(2, 4)
    )
    assert "which cannot be followed" in trace.kept_whole["scale"]


def test_pairs_that_are_complex_numbers_are_one_unit():
    def through_complex(h: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(h.view(-1, 3, 2))).flatten(1)

    trace = between(through_complex)
    rows = units(trace, "first.weight", 0)
    assert rows[::2] == rows[1::2]
    assert len(set(rows)) == 3


def test_joined_tensors_keep_their_units_at_an_offset():
    trace = between(lambda h: torch.cat([h[:, 4:], torch.zeros(2, 1), h[:, :2]], -1), out=5)
    assert sources(trace) == [4, 5, -1, 0, 1]


def test_stacked_tensors_keep_their_units():
    trace = between(lambda h: torch.stack([h[:, :3], h[:, 3:]], -1).flatten(1))
    assert sources(trace) == [0, 3, 1, 4, 2, 5]


def test_a_parameter_without_entries_keeps_no_units():
    trace = traced(Scaled(torch.ones(0, WIDTH), lambda h, s: torch.cat([h, s])), torch.ones(2, 4))
    assert sources(trace) == list(range(WIDTH))
    assert reason(trace, "first.weight") == ""


def test_joined_parameters_are_refused():
    trace = traced(
        Scaled(torch.ones(3, WIDTH), lambda h, w: h @ torch.cat([w, w]).T), torch.ones(2, 4)
    )
    assert trace.kept_whole["scale"] == (
        "'scale' goes through the operation 'cat', which cannot be followed"
    )


def test_padding_beside_images_keeps_their_channels():
    first, last = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1)
    trace = traced(Between(first, lambda h: F.pad(h, (1, 1, 2, 0)), last), torch.ones(2, 1, 4, 4))
    assert sources(trace) == [0, 1, 2]


def test_padding_to_a_fixed_number_of_channels_adds_a_unit_that_stays():
    trace = between(lambda h: F.pad(h, (1, 2)), out=9)
    assert sources(trace) == [-1, 0, 1, 2, 3, 4, 5, -1, -1]
    pad = units(trace, "last.weight", 1)[0]
    assert trace.units.reason(pad) == (
        "they are padded along the dimension in which they lie, to a fixed size"
    )
    assert trace.units.reason(units(trace, "first.weight", 0)[0]) is None


def test_a_gated_linear_unit_ties_its_halves():
    trace = between(F.glu, out=3)
    assert sources(trace) == [0, 1, 2]
    rows = units(trace, "first.weight", 0)
    assert rows[:3] == rows[3:]


def test_a_gated_parameter_is_refused():
    trace = traced(Scaled(torch.ones(1, 12), lambda h, w: h * F.glu(w)), torch.ones(2, 4))
    assert "'glu', which cannot be followed" in trace.kept_whole["scale"]


TOKENS = torch.ones(2, 3, 4)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h.sum(1),
        lambda h: h.mean(1),
        lambda h: h.amax(1),
        lambda h: h.max(1).values,
        lambda h: h.var(1),
        lambda h: h.logsumexp(1),
        lambda h: h.softmax(1),
        lambda h: h.cumsum(1),
        lambda h: h.sort(1).values,
        lambda h: h.topk(2, 1).values,
    ],
)
def test_an_operation_over_other_dimensions_keeps_the_units(function):
    trace = traced(Between(nn.Linear(4, WIDTH), function, nn.Linear(WIDTH, 2)), TOKENS)
    assert sources(trace) == list(range(WIDTH))
    assert reason(trace, "first.weight") == ""


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("sum", lambda h: h - h.sum(-1, keepdim=True)),
        ("mean", lambda h: h - h.mean(-1, keepdim=True)),
        ("amax", lambda h: h - h.amax(-1, keepdim=True)),
        ("max", lambda h: h - h.max(-1, keepdim=True).values),
        ("_softmax", lambda h: h.softmax(-1)),
        ("cumsum", lambda h: h.cumsum(-1)),
        ("sort", lambda h: h.sort().values),
        ("topk", lambda h: h.topk(WIDTH).values),
    ],
)
def test_an_operation_over_the_units_is_refused_by_its_name(name, function):
    assert reason(between(function), "first.weight") == f"the operation {name!r} runs over them"


def test_a_view_as_numbers_of_another_size_is_refused():
    trace = between(lambda h: h.view(torch.int16).float(), out=2 * WIDTH)
    assert "'view'" in reason(trace, "first.weight")


def test_units_that_become_a_sparse_tensor_are_refused():
    trace = between(lambda h: h + h.to_sparse().coalesce().values().sum())
    assert "sparse" in reason(trace, "first.weight")


@pytest.mark.parametrize("function", [torch.sort, lambda number: number.topk(1)])
def test_an_operation_over_a_single_number_is_followed(function):
    trace = between(lambda h: h + function(h[0, 0]).values)
    first, *others = [trace.units.reason(unit) for unit in units(trace, "first.weight", 0)]
    assert first == "they are spread over other units by 'add'"
    assert others == [None] * 5


def test_a_tensor_made_in_the_size_of_another_has_no_units():
    trace = between(lambda h: h + torch.zeros_like(h).flip(-1))
    assert sources(trace) == list(range(WIDTH))
    assert len(set(units(trace, "first.weight", 0))) == WIDTH
    assert between(torch.zeros_like).slices["last.weight", 1].reads.sum() == 0


def test_labels_written_into_a_view_are_seen_by_the_whole_tensor():
    def filled(h: Tensor) -> Tensor:
        out = torch.zeros(2, 8)
        out[:, 2:].copy_(h)
        return out

    assert sources(between(filled, out=8)) == [-1, -1, 0, 1, 2, 3, 4, 5]
