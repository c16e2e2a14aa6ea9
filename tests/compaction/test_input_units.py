"""A group on a network's own inputs: exact without examples, and named with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l0func as l0


class Named(nn.Module):
    """Two inputs in a dict, of which one has features to remove."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = nn.Linear(6, 4), nn.Linear(3, 4)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.first(batch["a"]) + self.other(batch["b"])


CLOSED = torch.tensor([5.0, -5.0, 5.0, 5.0, -5.0, 5.0])
OPEN = [0, 2, 3, 5]

NETS = {
    "columns of a linear layer": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)),
        lambda x: x,
        "0.weight",
        (5, 6),
        (slice(None), OPEN),
    ),
    "channels of a convolution": (
        lambda: nn.Sequential(nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 2)),
        lambda x: x,
        "0.weight",
        (5, 6, 4, 4),
        (slice(None), OPEN),
    ),
    "one of two inputs": (
        Named,
        lambda x: ({"a": x, "b": torch.ones(5, 3)},),
        "first.weight",
        (5, 6),
        (slice(None), OPEN),
    ),
}
nets = pytest.mark.parametrize(("made", "given", "path", "shape", "kept"), NETS.values(), ids=NETS)


@nets
def test_examples_with_all_inputs_are_told_of_the_inputs(made, given, path, shape, kept):
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(made())
    spec = l0.gate_spec(params, groups={"inputs": l0.group({path: l0.axis(1)})})
    message = rf"group 'inputs' removes slices of '{path}' that read the network's own inputs: it"
    with pytest.raises(ValueError, match=rf"{message} would take 4 of 6.*'{path}': l0func.axis"):
        l0.compact(
            fn, params, {"inputs": CLOSED}, buffers, spec, example_inputs=given(torch.randn(shape))
        )


@nets
def test_without_examples_the_inputs_that_stay_give_the_pruned_output(
    made, given, path, shape, kept
):
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(made())
    spec = l0.gate_spec(params, groups={"inputs": l0.group({path: l0.axis(1)})})
    gates, x = {"inputs": CLOSED}, torch.randn(shape)
    small = l0.compact(fn, params, gates, buffers, spec)
    whole, fewer = given(x), given(x[kept])
    whole, fewer = (w if isinstance(w, tuple) else (w,) for w in (whole, fewer))
    expected = fn(l0.prune(params, gates, spec), buffers, *whole)
    torch.testing.assert_close(small.fn(small.params, small.buffers, *fewer), expected)


@pytest.mark.parametrize("hidden", [5, 6])
def test_a_slice_that_is_missing_inside_the_network_is_not_called_an_input(hidden: int):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups={"hidden": l0.group({"2.weight": l0.axis(1)})})
    with pytest.raises(ValueError, match=r"does not run on the examples.*leave something out"):
        l0.compact(
            fn,
            params,
            {"hidden": CLOSED[:hidden]},
            buffers,
            spec,
            example_inputs=torch.randn(5, 6),
        )
