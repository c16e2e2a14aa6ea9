"""Tensors that forward cuts into pieces: the groups that are offered lose any units exactly."""

from __future__ import annotations

import pytest
import torch
from cut_modules import CUTS, Cut, wrong_removals
from strangers import STRANGERS
from torch import Tensor, nn
from traces import Between
from zoo import CASES

import l0func as l0


def cut_module(name: str) -> Cut:
    torch.manual_seed(0)
    cut, widths, _ = CUTS[name]
    return Cut(cut, widths).eval()


@pytest.mark.parametrize("name", CUTS)
def test_pieces_lose_units_apart_where_that_is_exact_and_together_where_it_is_not(name):
    groups = l0.unit_groups(cut_module(name), torch.randn(4, 3))
    found = [size for group, size in groups.sizes.items() if group.startswith("fc")]
    assert found == CUTS[name][2]
    assert ("fc.weight" in groups.refused) == (not found)


@pytest.mark.parametrize("name", CUTS)
def test_every_group_can_lose_any_units_with_every_other_at_any_units(name):
    module, x = cut_module(name), torch.randn(4, 3)
    assert wrong_removals(module, (x,), l0.unit_groups(module, x), draws=40) == []


@pytest.mark.parametrize("case", [*CASES, *STRANGERS], ids=repr)
def test_the_groups_of_every_known_module_lose_any_units(case):
    module = case.build().eval()
    try:
        groups = l0.unit_groups(module, case.batch())
    except ValueError:
        return
    if all(x.is_floating_point() for x in case.batch()):
        assert wrong_removals(module, case.batch(), groups, draws=12) == []


class C2f(nn.Module):
    """Halves of a convolution: one is passed on, the other goes through a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.cv1 = nn.Conv2d(2, 5, 1), nn.Conv2d(5, 8, 1)
        self.block = nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 1))
        self.cv2, self.out = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.relu(self.cv1(torch.relu(self.enter(x)))).chunk(2, 1)
        y = torch.cat([first, second, second + self.block(second)], 1)
        return self.out(torch.relu(self.cv2(y)))


def test_the_halves_of_a_convolution_go_together_into_a_residual_block():
    module, x = C2f().eval(), torch.randn(2, 2, 5, 5)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"enter": 5, "cv1": 4, "block.0": 3, "cv2": 6}
    assert wrong_removals(module, (x,), groups, draws=40) == []


class Twins(nn.Module):
    """Two towers; a residual joins them only where their widths happen to be equal."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(3, 6)
        self.of_a, self.of_b = nn.Linear(8, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).relu(), self.b(x).tanh()
        if a.shape == b.shape:
            b = a + b
        return self.of_a(a) + self.of_b(b)


def test_a_branch_on_two_equal_sizes_is_not_missed():
    module, x = Twins().eval(), torch.randn(5, 3)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"b": 6}
    assert "the outputs differ" in groups.refused["a.weight"]
    assert wrong_removals(module, (x,), groups, draws=40) == []


class ConcatenatedHalves(nn.Module):
    """The outputs of two layers are joined, and cut in the middle again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(3, 6)
        self.of_a, self.of_b = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.cat([self.a(x), self.b(x)], -1).chunk(2, -1)
        return self.of_a(a.relu()) + self.of_b(b.tanh())


def test_two_layers_that_are_joined_and_cut_again_lose_equal_numbers():
    module, x = ConcatenatedHalves().eval(), torch.randn(5, 3)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"a": 6}
    assert wrong_removals(module, (x,), groups, draws=40) == []


@pytest.mark.parametrize("example", [torch.zeros(4, 3), torch.ones(4, 3), torch.randn(4, 3)])
def test_example_inputs_of_zeros_prove_as_much_as_random_ones(example):
    module = Cut(lambda m, y: [y / y.shape[1]], (12,)).eval()
    for layer in (module.enter, module.fc, *module.readers):
        layer.bias = None
    assert l0.unit_groups(module, example).sizes == {"enter": 5}


def test_a_dead_output_is_no_proof():
    class Dead(nn.Module):
        """The output of most random networks is zero."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).relu()
            return torch.relu(self.b(h / h.shape[1]))

    for seed in range(8):
        torch.manual_seed(seed)
        with pytest.raises(ValueError, match="the outputs differ"):
            l0.unit_groups(Dead(), torch.randn(2, 3))


def test_states_that_are_read_as_one_tensor_keep_their_layers_alike():
    class Final(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 6, 2, bidirectional=True, batch_first=True)
            self.out = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(x)[1][2:].transpose(0, 1).flatten(1))

    module, x = Final().eval(), torch.randn(3, 4, 3)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"rnn": 6}
    assert wrong_removals(module, (x,), groups, draws=20) == []


BY_PLACE = {
    "the first w": lambda h, w: torch.cat([h[:, :w].exp(), h[:, w:]], 1),
    "the last w": lambda h, w: torch.cat([h[:, :-w], h[:, -w:].exp()], 1),
    "from w on": lambda h, w: torch.cat([h[:, :w], h[:, w:].exp()], 1),
    "one at w": lambda h, w: torch.cat([h[:, :w], h[:, w : w + 1].exp(), h[:, w + 1 :]], 1),
    "every w": lambda h, w: h * torch.where(torch.arange(h.shape[1]) % (w + 1) == 0, 2.0, 1.0),
}
"""Forwards that treat units by their places, which stay where they are when some units go."""


@pytest.mark.parametrize("size", [4, 6, 9, 12])
@pytest.mark.parametrize("kind", BY_PLACE)
def test_units_that_forward_treats_by_their_places_stay(kind, size):
    torch.manual_seed(0)
    for w in range(1, size):
        net = Between(nn.Linear(4, size), lambda h, w=w: BY_PLACE[kind](h, w), nn.Linear(size, 2))
        with pytest.raises(ValueError, match=r"'first.weight': a trial"):
            l0.unit_groups(net, torch.randn(5, 4))
