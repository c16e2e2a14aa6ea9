"""Groups of a wrapper, moved to the module inside it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import l0func as l0
from l0func import axis


class Attention(nn.Module):
    """Heads that are counted by an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for p in (self.q, self.k, self.v)
        )
        y = (q @ k.mT).softmax(-1) @ v
        return x + self.o(y.transpose(1, 2).flatten(2))


class Wrapper(nn.Module):
    """A model, and a head that has hidden units of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.model = inner
        self.head = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.model(x))


def whole() -> Wrapper:
    torch.manual_seed(0)
    inner = nn.Sequential(Attention(), nn.LayerNorm(8), nn.Linear(8, 6), nn.Tanh())
    return Wrapper(nn.Sequential(*inner, nn.Linear(6, 8), nn.LayerNorm(8)))


@pytest.mark.parametrize("prefix", ["model.", "model"])
def test_groups_of_a_wrapper_compact_the_model_inside(prefix):
    wrapper, x = whole(), torch.randn(2, 3, 8)
    found = l0.unit_groups(wrapper, x)
    assert set(found) == {"model.0.q", "model.2", "head.0"}
    groups = found.under(prefix)
    assert groups.sizes == {"0.q": 4, "2": 6}
    assert groups["0.q"].attrs == {"0.heads": 1}
    fn, params, buffers = l0.make_functional(wrapper.model)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    gates = {"0.q": torch.tensor([9.0, -9, -9, 9]), "2": torch.tensor([9.0, 9, -9, 9, -9, 9])}
    small = l0.compact(fn, params, gates, buffers, spec)
    pruned = l0.prune(params, gates, spec)
    twin = functional_call(wrapper.model, pruned, (x,))
    torch.testing.assert_close(small.fn(small.params, small.buffers, x), twin)
    assert small.params["0.q.weight"].shape == (4, 8)


def test_refusals_under_the_prefix_come_along_and_others_do_not():
    groups = l0.unit_groups(whole(), torch.randn(2, 3, 8))
    assert any(path.startswith("head.") for path in groups.refused)
    assert not any(path.startswith(("head.", "model.")) for path in groups.under("model").refused)


def test_a_group_that_the_rest_of_the_network_reads_is_named_and_can_be_left_out():
    wrapper = Wrapper(nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 8)))
    groups = l0.unit_groups(wrapper, torch.randn(2, 8))
    with pytest.raises(ValueError, match=r"'model\.2' lie under 'model\.' in part only.*head\.0"):
        groups.under("model.")
    del groups["model.2"]
    assert set(groups.under("model.")) == {"0"}


def test_an_attribute_outside_of_the_prefix_counts_as_a_part_of_the_group():
    group = l0.group({"model.b": axis(1)}, {"model.a": axis(0)}, {"heads": 1})
    groups = l0.UnitGroups({"model.a": group}, {"model.a": 4}, {})
    with pytest.raises(ValueError, match=r"'model\.a' also has 'heads'"):
        groups.under("model.")


def test_a_prefix_without_groups_names_those_that_there_are():
    groups = l0.unit_groups(whole(), torch.randn(2, 3, 8))
    with pytest.raises(ValueError, match=r"No group lies under 'modell\.'.*'head\.0'"):
        groups.under("modell.")


def test_a_name_that_only_begins_like_the_prefix_is_outside():
    group = l0.group({"model2.b": axis(1)}, {"model2.a": axis(0)})
    with pytest.raises(ValueError, match="No group lies under"):
        l0.UnitGroups({"model2.a": group}, {"model2.a": 4}, {}).under("model")


def test_attrs_are_a_mapping_that_survives_copies_and_files():
    group = l0.group({"b": axis(1)}, {"a": axis(0)}, {"config.heads": 2})
    assert group.attrs == {"config.heads": 2}
    for twin in (pickle.loads(pickle.dumps(group)), copy.deepcopy(group)):
        assert twin == group
        assert hash(twin) == hash(group)
    assert group != l0.group({"b": axis(1)}, {"a": axis(0)}, {"config.heads": 1})


def test_a_group_pickled_when_attrs_were_text_still_loads():
    group = l0.group({"b": axis(1)}, {"a": axis(0)}, {"config.heads": 2})
    old = object.__new__(type(group))
    object.__setattr__(old, "multiplies", group.multiplies)
    object.__setattr__(old, "owns", group.owns)
    object.__setattr__(old, "attrs", '{"config.heads": 2}')
    loaded = pickle.loads(pickle.dumps(old))
    assert loaded == group
    params = {"a": torch.ones(3, 2), "b": torch.ones(2, 3)}
    assert l0.gate_spec(params, groups={"u": loaded}).attrs == (("u", '{"config.heads": 2}'),)
