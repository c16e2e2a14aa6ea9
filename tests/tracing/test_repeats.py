"""A mask that forward repeats for every head joins no head with the inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cut_modules import wrong_removals
from torch import Tensor, nn

import l0func as l0

Repeated = Callable[[Tensor, int], Tensor]


class Masked(nn.Module):
    """Attention whose mask has an entry for every head, all alike."""

    def __init__(self, repeated: Repeated) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.repeated, self.heads = repeated, 4
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (self.q, self.k, self.v))
        bias = self.repeated(mask[:, None, None], self.heads)
        y = (q @ k.mT + bias).softmax(-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


def zeros(mask: Tensor, heads: int) -> Tensor:
    return torch.zeros(1, heads, mask.shape[-1], mask.shape[-1], dtype=mask.dtype)


REPEATED: dict[str, Repeated] = {
    "an expanded mask": lambda m, n: m.expand(-1, n, -1, -1),
    "a sum with zeros": lambda m, n: zeros(m, n) + m,
    "a choice": lambda m, n: torch.where(m > -1.0, zeros(m, n), -9.0),
    "a copy of a choice": lambda m, n: torch.where(m > -1.0, zeros(m, n), -9.0).contiguous() * 1,
    "a cast": lambda m, n: (zeros(m, n) + m).float().to(m.dtype),
    "a clone": lambda m, n: (zeros(m, n) + m).clone(),
    "an activation": lambda m, n: (zeros(m, n) + m).tanh(),
    "a slice": lambda m, n: (zeros(m, n) + m)[..., :, : m.shape[-1]],
    "transposed and back": lambda m, n: (zeros(m, n) + m).transpose(1, 2).clone().transpose(1, 2),
    "permuted": lambda m, n: (zeros(m, n) + m).permute(1, 0, 2, 3).flip(-1).permute(1, 0, 2, 3),
    "taken apart": lambda m, n: torch.stack((zeros(m, n) + m).unbind(-2), -2),
    "taken apart by rows": lambda m, n: torch.stack((zeros(m, n) + m).unbind(0)),
    "joined": lambda m, n: torch.cat([zeros(m, n) + m] * 2, -1)[..., : m.shape[-1]],
    "two sums": lambda m, n: (zeros(m, n) + m) + (zeros(m, n) - m * 0.5),
}


class Smoothed(Masked):
    """The same, with a mask that a depthwise convolution smooths."""

    def __init__(self) -> None:
        super().__init__(lambda mask, heads: mask.expand(-1, heads, -1, -1))
        self.smooth = nn.Conv1d(2, 2, 3, padding=1, groups=2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x, self.smooth(torch.stack([mask, -mask], 1))[:, 0])


def test_heads_under_a_mask_that_is_convolved_by_itself_are_found():
    module = Smoothed().eval()
    inputs = (torch.randn(2, 3, 8), torch.tensor([[0.0, 0.0, -9.0], [0.0, 0.0, 0.0]]))
    groups = l0.unit_groups(module, *inputs)
    assert list(groups.sizes.values()) == [4]
    assert wrong_removals(module, inputs, groups, draws=8) == []


@pytest.mark.parametrize("name", REPEATED)
def test_heads_under_a_repeated_mask_are_found_and_any_can_go(name: str):
    module = Masked(REPEATED[name]).eval()
    inputs = (torch.randn(2, 3, 8), torch.tensor([[0.0, 0.0, -9.0], [0.0, 0.0, 0.0]]))
    groups = l0.unit_groups(module, *inputs)
    assert list(groups.sizes.values()) == [4]
    assert wrong_removals(module, inputs, groups, draws=8) == []


def test_a_mask_with_numbers_of_each_head_s_own_is_no_repetition():
    def slopes(mask: Tensor, heads: int) -> Tensor:
        return mask * torch.linspace(1, 2, heads)[:, None, None]

    inputs = (torch.randn(2, 3, 8), torch.tensor([[0.0, 0.0, -9.0], [0.0, 0.0, 0.5]]))
    with pytest.raises(ValueError, match=r"'q.weight': (a trial without some|they are joined)"):
        l0.unit_groups(Masked(slopes).eval(), *inputs)
