"""The shape of tensors that broadcast is torch's."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from l0func.internal.shapes import joint_shape

SHAPES = [torch.Size(sizes) for rank in range(4) for sizes in product((0, 1, 3), repeat=rank)]


def joint(function, *shapes):
    try:
        return function(*shapes)
    except RuntimeError:
        return None


def test_two_shapes_broadcast_as_in_torch():
    for pair in product(SHAPES, repeat=2):
        assert joint(joint_shape, *pair) == joint(torch.broadcast_shapes, *pair), pair


@pytest.mark.parametrize("sizes", [[(3,)], [(2, 1), (1, 3), ()], [(1,), (1, 1), (4, 1, 1)]])
def test_any_number_of_shapes_broadcast_as_in_torch(sizes):
    shapes = [torch.Size(each) for each in sizes]
    assert joint_shape(*shapes) == torch.broadcast_shapes(*shapes)


def test_shapes_that_do_not_broadcast_are_named():
    with pytest.raises(RuntimeError, match=r"Shapes \(2, 3\), \(2,\) do not broadcast\."):
        joint_shape(torch.Size((2, 3)), torch.Size((2,)))


class _Spread(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.expand(joint_shape(a.shape, b.shape)) + b


@pytest.mark.compiles
def test_an_open_size_is_compared_with_no_other_dimension():
    sizes = ({0: torch.export.Dim("n")}, None)
    example = torch.ones(4, 3), torch.ones(3)
    program = torch.export.export(_Spread(), example, dynamic_shapes=sizes, strict=False)
    assert program.module()(torch.ones(3, 3), torch.ones(3)).shape == (3, 3)
