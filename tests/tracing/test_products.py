"""Units through products: matrices, batches of them, attention and convolutions."""

from __future__ import annotations

import pytest
import torch
from cut_modules import wrong_removals
from device import RELEASE
from torch import Tensor, nn
from torch.nn import functional as F
from traces import Between, Scaled, between, reason, sources, traced, units

import l0func as l0

WIDTH = 6


@pytest.mark.parametrize(
    "function",
    [
        lambda h, w: h @ w,
        lambda h, w: torch.bmm(h[:, None], w.expand(2, WIDTH, WIDTH))[:, 0],
        lambda h, w: F.linear(h, w.T),
        lambda h, w: torch.addmm(torch.zeros(WIDTH), h, w),
        lambda h, w: (w.T @ h.T).T,
    ],
)
def test_a_matrix_reads_units_by_its_rows_and_makes_units_by_its_columns(function):
    trace = traced(Scaled(torch.ones(WIDTH, WIDTH), function), torch.ones(2, 4))
    assert units(trace, "scale", 0) == units(trace, "first.weight", 0)
    assert units(trace, "scale", 1) == units(trace, "last.weight", 1)
    assert trace.slices["scale", 0].reads.all()
    assert trace.slices["scale", 1].owns.all()
    assert reason(trace, "scale", 1) == reason(trace, "first.weight") == ""
    assert trace.uses["scale"].item() == 2


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped_mm")
def test_a_batch_of_experts_multiplies_once_for_every_token_and_has_whole_runs_of_units():
    ends = torch.tensor([2, 5, 6, 7], dtype=torch.int32)
    scaled = Scaled(torch.ones(4, 8, 8), lambda h, w: F.grouped_mm(h, w, offs=ends), width=8)
    trace = traced(scaled, torch.ones(7, 4))
    # Seven tokens are no multiple of four experts.
    assert trace.uses["scale"].item() == pytest.approx(7 / 4)
    # torch takes rows of whole runs of 16 bytes: four numbers.
    assert trace.pieces == {4}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("width", [0, 1, 3])
def test_a_layer_multiplies_each_weight_once_a_row_whatever_its_width(width: int):
    trace = traced(nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2)), torch.ones(2, 5, 4))
    assert trace.counted == 10 * (4 * width + width * 2)
    assert trace.uses["0.weight"].item() in (0, 10)


def test_a_network_of_images_multiplies_nothing_for_no_images():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.ConvTranspose2d(4, 2, 1),
    )
    counts = l0.count_macs(*l0.make_functional(net.eval()), torch.ones(0, 2, 4, 4))
    assert counts.total == 0


@pytest.mark.skipif(RELEASE < (2, 9), reason="this torch has no out_dtype")
@pytest.mark.xfail(
    (2, 9) <= RELEASE <= (2, 11), reason="torch 2.9 and 2.11 take it for a factor", strict=True
)
def test_a_product_in_half_precision_with_a_result_in_full_is_followed():
    def product(h: Tensor, w: Tensor) -> Tensor:
        bias = torch.zeros(WIDTH, WIDTH, device=h.device)
        return torch.addmm(bias, h, w, out_dtype=torch.float32).to(h.dtype)

    # The CPU has no such product; tensors without data show its units.
    module = Scaled(torch.ones(WIDTH, WIDTH), product).to("meta", torch.bfloat16)
    trace = traced(module, torch.ones(WIDTH, 4, dtype=torch.bfloat16, device="meta"))
    assert units(trace, "scale", 0) == units(trace, "first.weight", 0)
    assert units(trace, "scale", 1) == units(trace, "last.weight", 1)


def test_units_are_the_same_in_inference_mode():
    # torch has other operations there: one for a whole linear layer.
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        trace = traced(net, torch.ones(5, 4))
    assert units(trace, "0.weight", 0) == units(trace, "0.bias", 0) == units(trace, "2.weight", 1)
    assert reason(trace, "0.weight") == ""
    assert trace.counted == 5 * (4 * 3 + 3 * 2)


def test_a_bias_belongs_to_the_units_of_its_product():
    trace = between(torch.relu)
    assert units(trace, "first.bias", 0) == units(trace, "first.weight", 0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_of_a_table_reads_the_table_s_columns_as_units(bias: bool):
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.first = nn.Embedding(3, 6), nn.Linear(4, 5)
            self.positions, self.last = nn.Linear(6, 5, bias=bias), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(x)) * self.positions(self.table.weight))

    torch.manual_seed(0)
    module = Positions().eval()
    groups = l0.unit_groups(module, torch.randn(2, 3, 4))
    assert groups.sizes == {"table": 6, "first": 5}
    assert wrong_removals(module, (torch.randn(2, 3, 4),), groups, draws=8) == []


@pytest.mark.parametrize(
    ("a", "b", "product"),
    [
        ((4, 3), (3, 5), lambda a, b: a @ b),
        ((2, 4, 3), (2, 3, 5), lambda a, b: (a @ b).sum(0)),
        ((2, 4, 3), (5, 3, 2), lambda a, b: (a @ b.permute(2, 1, 0)).sum(0)),
    ],
)
def test_a_product_of_two_parameters_is_refused_by_their_names(a, b, product):
    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(a)), nn.Parameter(torch.ones(b))
            self.last = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x @ product(self.a, self.b))

    trace = traced(LowRank(), torch.ones(2, 4))
    assert trace.kept_whole == {
        "a": "'a' is multiplied by 'b'",
        "b": "'b' is multiplied by 'a'",
    }


def test_a_batch_of_matrices_reads_the_units_of_a_batch_without_rows():
    def multiply(h: Tensor, w: Tensor) -> Tensor:
        return torch.cat([h[:, None], torch.bmm(h[:, None][:, :0], w)], 1)

    trace = traced(Scaled(torch.ones(2, WIDTH, WIDTH), multiply, WIDTH), torch.ones(2, 4))
    assert sources(trace) == list(range(WIDTH))


def test_a_matrix_along_another_dimension_serves_all_units_and_stays():
    def over_places(h: Tensor, w: Tensor) -> Tensor:
        return (h.mT @ w).mT

    trace = traced(Scaled(torch.ones(3, 3), over_places), torch.ones(2, 3, 4))
    assert sources(trace) == list(range(WIDTH))
    assert reason(trace, "first.weight") == ""
    assert reason(trace, "scale") == (
        "'scale' works along another dimension than its input's units"
    )


def test_a_single_unit_is_refused():
    trace = traced(nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2)), torch.ones(2, 4))
    assert reason(trace, "0.bias") == "they are the only unit along a dimension of '0.weight'"


def test_a_reshaped_matrix_is_refused():
    trace = traced(
        Scaled(torch.ones(4, 9), lambda h, w: h @ w.reshape(WIDTH, WIDTH)), torch.ones(2, 4)
    )
    assert trace.kept_whole["scale"] == "'scale' is reshaped before it is used"
    assert reason(trace, "first.weight") == "'scale' is reshaped before it is used"


class Attention(nn.Module):
    """Two heads, or one, written as plain products; every head has three features."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(4, 3 * heads) for _ in range(3))
        self.last = nn.Linear(3 * heads, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, 3)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = (q @ k.mT).softmax(-1) @ v
        return self.last(mixed.transpose(1, 2).flatten(2))


def test_an_attention_head_is_one_unit_of_queries_keys_and_values():
    trace = traced(Attention(2), torch.ones(2, 5, 4))
    heads = units(trace, "q.weight", 0)
    assert heads == [heads[0]] * 3 + [heads[3]] * 3
    assert heads[0] != heads[3]
    for path, dim in (("k.weight", 0), ("v.bias", 0), ("last.weight", 1)):
        assert units(trace, path, dim) == heads
    assert reason(trace, "q.weight") == ""


def test_products_between_activations_are_counted_by_head():
    trace = traced(Attention(2), torch.ones(2, 5, 4))
    first, *_, second = units(trace, "q.weight", 0)
    counted = dict.fromkeys((first, second), 0)
    for pair, macs in trace.products.items():
        (root,) = {trace.units.root(label) for label in pair}
        counted[root] += macs
    # Scores and mixtures: 2 rows, 5 × 5 places, 3 features.
    assert counted == dict.fromkeys((first, second), 2 * (2 * 5 * 5 * 3))


def test_the_map_of_a_lone_attention_head_is_refused_and_its_values_are_not():
    trace = traced(Attention(1), torch.ones(2, 5, 4))
    assert reason(trace, "q.weight") == (
        "all units of a product with another activation go through them"
    )
    assert reason(trace, "v.weight") == ""
    assert len(set(units(trace, "v.weight", 0))) == 3


IMAGES = torch.ones(2, 4, 5, 5)


def test_a_kernel_reads_channels_and_makes_channels():
    net = Between(nn.Conv2d(4, 3, 3), torch.relu, nn.Conv2d(3, 2, 3, padding=1))
    trace = traced(net, IMAGES)
    assert sources(trace) == [0, 1, 2]
    assert reason(trace, "first.weight") == ""
    assert [reader.border for reader in trace.readers] == [False, True]
    assert trace.uses["first.weight"].item() == 2 * 3 * 3


def test_a_transposed_kernel_has_its_dimensions_the_other_way_round():
    net = Between(nn.ConvTranspose2d(4, 3, 2), torch.relu, nn.ConvTranspose2d(3, 2, 2))
    trace = traced(net, IMAGES)
    assert units(trace, "last.weight", 0) == units(trace, "first.weight", 1)
    assert units(trace, "first.bias", 0) == units(trace, "first.weight", 1)
    assert trace.uses["first.weight"].item() == 2 * 5 * 5


def test_a_group_of_a_grouped_convolution_is_one_unit():
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(6, 2, 1)
            self.grouped = nn.Conv2d(4, 6, 3, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.grouped(self.first(x)))

    trace = traced(Grouped(), IMAGES)
    a, _, b, _ = units(trace, "first.weight", 0)
    assert units(trace, "first.weight", 0) == [a, a, b, b]
    assert units(trace, "grouped.weight", 0) == [a, a, a, b, b, b]
    assert units(trace, "last.weight", 1) == [a, a, a, b, b, b]
    assert a != b
    assert reason(trace, "first.weight") == ""


def test_places_that_a_depthwise_kernel_mixes_are_one_unit():
    def convolved(h: Tensor, w: Tensor) -> Tensor:
        # Units lie along the batch and along the places; the channels are the rows of h.
        pairs = h.unflatten(1, (3, 2)).transpose(0, 1)
        return F.conv1d(pairs, w, padding=1, groups=2).transpose(0, 1).flatten(1)

    trace = traced(Scaled(torch.ones(2, 1, 3), convolved), torch.ones(2, 4))
    rows = units(trace, "first.weight", 0)
    assert rows[::2] == rows[1::2]


def test_a_transposed_grouped_convolution_owns_its_input_channels():
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(6, 2, 1)
            self.grouped = nn.ConvTranspose2d(4, 6, 3, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.grouped(self.first(x)))

    trace = traced(Grouped(), IMAGES)
    a, _, b, _ = units(trace, "first.weight", 0)
    assert units(trace, "grouped.weight", 0) == [a, a, b, b]
    assert units(trace, "last.weight", 1) == [a, a, a, b, b, b]


def test_a_kernel_that_forward_computes_is_refused():
    net = Between(
        nn.Conv2d(4, 3, 1),
        lambda h: F.conv2d(h, h.mean((0, 2, 3)).reshape(1, 3, 1, 1)),
        nn.Conv2d(1, 2, 1),
    )
    assert "'convolution', which cannot be followed with a kernel that forward computes" in reason(
        traced(net, IMAGES), "first.weight"
    )


def test_a_dot_product_is_refused():
    class Dot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return self.last(h) * torch.dot(h[0], h[1])

    assert "'dot', which cannot be followed" in reason(
        traced(Dot(), torch.ones(2, 4)), "first.weight"
    )
