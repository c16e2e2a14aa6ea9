"""The attributes that forward reads sizes from: all are found, in few tries for deep networks."""

from __future__ import annotations

import pytest
import torch
from block_modules import CONFIGS, Blocks
from cut_modules import wrong_removals
from torch import Tensor, nn

import l0func as l0
from l0func.compaction.trial import Trial

TOKENS = torch.arange(12).reshape(2, 6) % 10
# The attributes of the first block, and the numbers of groups for two blocks.
STYLES: dict[str, tuple[dict[str, int], int]] = {
    "packed": (
        {
            "blocks.0.c_attn.nf": 12,
            "blocks.0.num_heads": 1,
            "blocks.0.split_size": 4,
        },
        2,
    ),
    "shared bias": (
        {
            f"blocks.{i}.{name}": each
            for i in range(2)
            for name, each in (("n_heads", 1), ("inner", 4))
        },
        1,
    ),
    "passed": ({"heads": 1}, 1),
    **dict.fromkeys(CONFIGS, ({"blocks.0.config.heads": 2, "blocks.0.kv_heads": 1}, 4)),
}


def blocks(style: str, depth: int) -> Blocks:
    torch.manual_seed(0)
    return Blocks(style, depth).eval()


@pytest.mark.parametrize("style", STYLES)
def test_the_heads_of_every_style_are_found_and_any_can_go(style):
    attrs, number = STYLES[style]
    module = blocks(style, 2)
    groups = l0.unit_groups(module, TOKENS)
    assert len(groups) == number
    assert next(iter(groups.values())).attrs == attrs
    assert wrong_removals(module, (TOKENS,), groups, draws=10) == []


@pytest.mark.parametrize("style", ["packed", "shared bias", "passed", "namespace"])
def test_tries_grow_in_proportion_to_the_number_of_blocks(style, monkeypatch):
    tries: list[int] = []
    failure = Trial.failure

    def counted(trial, groups):
        tries[-1] += 1
        return failure(trial, groups)

    monkeypatch.setattr(Trial, "failure", counted)
    depths = [2, 4, 12]
    for depth in depths:
        tries.append(0)
        assert len(l0.unit_groups(blocks(style, depth), TOKENS)) >= 1
    of_a_block = (tries[1] - tries[0]) / 2
    assert tries[2] - tries[0] <= 1.3 * of_a_block * 10
    assert max(tries) <= 100, tries


def test_attributes_that_forward_does_not_read_stay():
    module = blocks("packed", 1)
    module.blocks[0].vocabulary = 12
    (group,) = l0.unit_groups(module, TOKENS).values()
    assert "blocks.0.vocabulary" not in group.attrs


def test_a_dict_of_sizes_is_lowered():
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sizes = {"heads": 4, "width": 3}
            self.a, self.b = nn.Linear(5, 12), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).view(len(x), self.sizes["heads"], self.sizes["width"])
            return self.b(torch.einsum("bhw,bhw->bh", y, y))

    torch.manual_seed(0)
    module, x = Sized().eval(), torch.randn(4, 5)
    groups = l0.unit_groups(module, x)
    assert groups["a"].attrs == {"sizes.heads": 1}
    assert wrong_removals(module, (x,), groups, draws=10) == []


class Deep(nn.Module):
    """A block whose second reshape has a fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Fixed()
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(x))


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.a = 4, nn.Linear(5, 12)

    # Not every author calls it self.
    def forward(this, x: Tensor) -> Tensor:
        y = this.a(x).view(len(x), this.heads, 3)
        return torch.einsum("bhw,bhw->bh", y, y).reshape(-1, 4)


def test_a_refusal_shows_the_try_that_came_furthest_with_its_module_and_operation():
    with pytest.raises(ValueError, match="No units") as caught:
        l0.unit_groups(Deep(), torch.randn(3, 5))
    reason = str(caught.value)
    assert "in 'block' (Fixed), torch function 'reshape': RuntimeError: shape '[-1, 4]'" in reason
