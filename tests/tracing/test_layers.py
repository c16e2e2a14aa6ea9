"""Units through layers: normalisation, pooling and other resampling, embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from traces import Between, Scaled, reason, sources, traced, units

IMAGES = torch.ones(2, 1, 4, 4)
TOKENS = torch.ones(2, 3, 4)


def of_images(function: nn.Module | object, channels: int = 4) -> Between:
    return Between(nn.Conv2d(1, channels, 1), function, nn.Conv2d(channels, 2, 1))


def of_tokens(function: nn.Module | object, width: int = 6) -> Between:
    return Between(nn.Linear(4, width), function, nn.Linear(width, 2))


def test_batch_norm_and_its_statistics_belong_to_the_channels():
    trace = traced(of_images(nn.BatchNorm2d(4)), IMAGES)
    channels = units(trace, "first.weight", 0)
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert units(trace, f"function.{name}", 0) == channels
    assert sources(trace) == [0, 1, 2, 3]
    assert reason(trace, "first.weight") == ""


def test_batch_norm_on_an_input_is_refused():
    trace = traced(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.ones(2, 4))
    assert reason(trace, "0.weight") == "they are joined with an input of the module"


def test_group_norm_ties_the_channels_of_a_group():
    trace = traced(of_images(nn.GroupNorm(2, 4)), IMAGES)
    a, _, b, _ = units(trace, "first.weight", 0)
    assert units(trace, "first.weight", 0) == units(trace, "function.weight", 0) == [a, a, b, b]
    assert a != b
    assert reason(trace, "first.weight") == ""


def test_group_norm_with_one_group_is_refused():
    trace = traced(of_images(nn.GroupNorm(1, 4)), IMAGES)
    assert reason(trace, "first.weight") == (
        "a normalisation, 'native_group_norm' with one group, runs over them"
    )


def test_layer_norm_over_other_dimensions_keeps_the_units():
    trace = traced(of_tokens(lambda h: F.layer_norm(h.mT, (3,)).mT), TOKENS)
    assert sources(trace) == list(range(6))
    assert reason(trace, "first.weight") == ""


@pytest.mark.parametrize(
    "function",
    [
        nn.LayerNorm(6),
        nn.LayerNorm((3, 6)),
        lambda h: F.layer_norm(h.mT, (6, 3)).mT,
        lambda h: F.layer_norm(h.mT, (2, 6, 3)).mT,
    ],
)
def test_layer_norm_over_the_units_is_refused(function):
    assert reason(traced(of_tokens(function), TOKENS), "first.weight") == (
        "a normalisation, 'native_layer_norm', runs over them"
    )


def test_a_computed_scale_of_a_norm_is_of_the_units_that_it_scales():
    trace = traced(
        Scaled(torch.ones(6), lambda h, w: F.layer_norm(h, (6,), w * w.flip(0))), torch.ones(2, 4)
    )
    assert reason(trace, "scale") == reason(trace, "first.weight") != ""


has_rms_norm = pytest.mark.skipif(not hasattr(F, "rms_norm"), reason="torch 2.1 has no RMSNorm")


@has_rms_norm
def test_rms_norm_with_a_weight_is_noted_and_not_refused():
    trace = traced(of_tokens(nn.RMSNorm(6)), TOKENS)
    assert trace.norm_weights == {"function.weight"}
    assert units(trace, "function.weight", 0) == units(trace, "first.weight", 0)
    (labels,) = trace.normed
    assert trace.units.roots(labels[0, 0]).tolist() == units(trace, "first.weight", 0)
    assert reason(trace, "first.weight") == ""


@has_rms_norm
def test_rms_norm_without_a_weight_is_noted_too():
    trace = traced(of_tokens(nn.RMSNorm(6, elementwise_affine=False)), TOKENS)
    assert trace.norm_weights == set()
    (labels,) = trace.normed
    assert trace.units.roots(labels[0, 0]).tolist() == units(trace, "first.weight", 0)
    assert reason(trace, "first.weight") == ""


@has_rms_norm
@pytest.mark.parametrize(
    "function",
    [lambda h: F.rms_norm(h, (3, 6)), lambda h: F.rms_norm(h.mT, (6, 3)).mT],
)
def test_rms_norm_over_two_dimensions_is_refused(function):
    assert reason(traced(of_tokens(function), TOKENS), "first.weight") == (
        "a normalisation, 'rms_norm' over several dimensions, runs over them"
    )


@pytest.mark.parametrize(
    "function",
    [
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveMaxPool2d(2),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d(1),
    ],
    ids=repr,
)
def test_resampling_images_keeps_their_channels(function):
    trace = traced(of_images(function), IMAGES)
    assert sources(trace) == [0, 1, 2, 3]
    assert reason(trace, "first.weight") == ""


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("max_pool2d_with_indices", nn.MaxPool1d(3, 1, 1)),
        ("upsample_linear1d", lambda h: F.interpolate(h, 8, mode="linear")[..., :6]),
        ("replication_pad1d", lambda h: F.pad(h, (1, 1), mode="replicate")[..., 1:-1]),
    ],
)
def test_resampling_along_the_units_is_refused_by_its_name(name, function):
    trace = traced(of_tokens(function), TOKENS)
    assert reason(trace, "first.weight") == f"the operation {name!r} runs over them"


@pytest.mark.parametrize(
    "function",
    [
        lambda h: F.pad(h, (1, 1, 0, 0), "reflect"),
        lambda h: F.pad(h, (1, 1, 0, 0), "replicate"),
        lambda h: F.max_pool2d(h, (1, 3)),
        lambda h: F.avg_pool2d(h, (1, 3)),
        lambda h: F.adaptive_avg_pool2d(h, (None, 1)),
        lambda h: F.interpolate(h[None], (h.shape[-2], 5))[0],
    ],
)
def test_resampling_beside_the_units_keeps_them(function):
    trace = traced(of_tokens(lambda h: function(h.mT).mT), TOKENS)
    assert sources(trace) == list(range(6))
    assert reason(trace, "first.weight") == ""


def test_units_that_padding_shifts_in_their_own_dimension_are_refused():
    trace = traced(of_tokens(lambda h: F.pad(h, (1, -1), "replicate")), TOKENS)
    assert reason(trace, "first.weight") == "the operation 'replication_pad1d' runs over them"


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Embedding(7, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def test_the_columns_of_an_embedding_are_units():
    trace = traced(Words(), torch.tensor([[1, 2, 0]]))
    columns = units(trace, "first.weight", 1)
    assert len(set(columns)) == 3
    assert units(trace, "last.weight", 1) == columns
    assert trace.slices["first.weight", 1].owns.all()
    assert reason(trace, "first.weight", 1) == ""


def test_a_lookup_in_a_table_that_forward_computes_is_refused():
    net = of_tokens(lambda h: F.embedding(torch.tensor([[0, 1]]), h.flatten(0, 1)))
    assert "'embedding', which cannot be followed" in reason(traced(net, TOKENS), "first.weight")


def test_a_table_multiplied_by_a_number_is_still_a_table():
    def scaled_lookup(h: Tensor, table: Tensor) -> Tensor:
        return h + F.embedding(torch.tensor([1, 2]), table * 2.0)

    trace = traced(Scaled(torch.ones(7, 6), scaled_lookup), torch.ones(2, 4))
    assert units(trace, "scale", 1) == units(trace, "first.weight", 0)
