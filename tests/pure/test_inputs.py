"""Example inputs by place, by name and in a mapping: one rule for all calls that run a module."""

from __future__ import annotations

import functools
from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import l0func as l0

IDS, MASK = (
    torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]),
    torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 0]]),
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mid, self.out = nn.Embedding(9, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def run(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.out(torch.relu(self.mid(self.embed(ids) * mask[..., None]))).sum(1)


class ByName(Model):
    def forward(self, input_ids: Any = None, attention_mask: Any = None) -> Tensor:
        return self.run(input_ids, attention_mask)


class KeywordOnly(Model):
    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.run(input_ids, attention_mask)


class MoreKeywords(Model):
    def forward(self, input_ids: Any = None, **kwargs: Any) -> Tensor:
        return self.run(input_ids, kwargs["attention_mask"])


class OnlyKeywords(Model):
    def forward(self, **kwargs: Any) -> Tensor:
        return self.run(kwargs["input_ids"], kwargs["attention_mask"])


class OneDict(Model):
    def forward(self, batch: Any) -> Tensor:
        return self.run(batch["input_ids"], batch["attention_mask"])


class OneList(Model):
    def forward(self, batch: list[Tensor]) -> Tensor:
        return self.run(*batch)


class Anything(Model):
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.run(*args, *kwargs.values())


BATCH = {"input_ids": IDS, "attention_mask": MASK}
CASES = {
    "a tuple": (ByName, (IDS, MASK)),
    "a dict by name": (ByName, BATCH),
    "a UserDict by name": (ByName, UserDict(BATCH)),
    "keyword-only": (KeywordOnly, BATCH),
    "some of the keys in **kwargs": (MoreKeywords, BATCH),
    "all of the keys in **kwargs": (OnlyKeywords, BATCH),
    "a dict as the only input": (OneDict, BATCH),
    "a UserDict as the only input": (OneDict, UserDict(BATCH)),
    "a dict in a tuple": (OneDict, (BATCH,)),
    "a dict under its name": (OneDict, {"batch": BATCH}),
    "a list as the only input": (OneList, [IDS, MASK]),
    "any arguments": (Anything, (IDS, MASK)),
}


@pytest.mark.parametrize(("kind", "examples"), CASES.values(), ids=CASES)
def test_examples_in_every_form_run_the_module_that_takes_them(kind: Any, examples: Any):
    torch.manual_seed(0)
    net = kind().eval()
    groups = l0.unit_groups(net, examples)
    assert groups.sizes == {"embed": 6, "mid": 8}
    assert l0.unit_groups(net, example_inputs=examples).sizes == groups.sizes
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=groups)
    gates = {"embed": torch.full((6,), 3.0), "mid": torch.tensor([3.0, -9] * 4)}
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=examples)
    assert small.params["mid.weight"].shape == (4, 6)
    pruned = functional_call(ByName(), l0.prune(params, gates, spec), (IDS, MASK))
    smaller = ByName()
    smaller.embed, smaller.mid, smaller.out = l0.to_module(*small).children()
    torch.testing.assert_close(smaller(IDS, MASK), pruned)


def test_unit_groups_takes_a_call_s_own_arguments():
    by_tuple = l0.unit_groups(ByName(), (IDS, MASK)).sizes
    assert l0.unit_groups(ByName(), IDS, MASK).sizes == by_tuple
    assert l0.unit_groups(ByName(), IDS, attention_mask=MASK).sizes == by_tuple
    assert l0.unit_groups(ByName(), **BATCH).sizes == by_tuple


def test_multiply_adds_of_keyword_inputs_are_those_of_positional_ones():
    function = l0.make_functional(ByName())
    total = l0.count_macs(*function, IDS, MASK).total
    assert total == IDS.numel() * (6 * 8 + 8 * 3)
    assert l0.count_macs(*function, IDS, attention_mask=MASK).total == total
    assert l0.count_macs(*function, **BATCH).total == total
    assert l0.count_macs(*l0.make_functional(OneDict()), BATCH).total == total


@pytest.mark.parametrize("per_example", [False, True])
def test_the_module_face_takes_keyword_inputs_and_compacts_with_a_dict(per_example: bool):
    groups = l0.unit_groups(ByName(), BATCH)
    module = l0.L0Module(ByName(), 0.0, groups=groups, per_example=per_example, seed=0)
    assert module(**BATCH).shape == (2, 3)
    small = module.eval().compacted(example_inputs=UserDict(BATCH))
    torch.testing.assert_close(small(**BATCH), module(IDS, MASK))


REFUSED = {
    "unknown name": (
        ByName,
        {"input_ids": IDS, "attention_maks": MASK},
        r"It got the dict as one input: forward takes \(input_ids=None, attention_mask=None"
        r"\), and has no 'attention_maks'; the closest is 'attention_mask'",
    ),
    "missing name": (KeywordOnly, {"input_ids": IDS}, r"KeywordOnly takes \(\*, input_ids, att"),
    "too many": (ByName, (IDS, MASK, MASK), r"inputs \(Tensor, Tensor, Tensor\) do not fit: too"),
    "a list": (ByName, [IDS, MASK], "It got the list as one input.* a tuple for several"),
    "either": (Anything, BATCH, r"may be its only input, or .* write a tuple, \(\{\.\.\.\},\)"),
}


@pytest.mark.parametrize(("kind", "examples", "match"), REFUSED.values(), ids=REFUSED)
def test_examples_that_forward_does_not_take_are_refused_with_its_arguments(
    kind: Any, examples: Any, match: str
):
    with pytest.raises(TypeError, match=match):
        l0.unit_groups(kind(), examples)
    fn, params, buffers = l0.make_functional(kind())
    spec = l0.gate_spec(params, groups=l0.unit_groups(ByName(), IDS, MASK))
    gates = l0.init_gates(l0.random.key(0), spec)
    with pytest.raises(TypeError, match=match):
        l0.compact(fn, params, gates, buffers, spec, example_inputs=examples)


def test_a_container_in_a_call_with_other_inputs_is_one_input():
    function = l0.make_functional(ByName())
    with pytest.raises(TypeError, match=r"the dict as one input.*keyword inputs as \*\*inputs"):
        l0.count_macs(*function, BATCH)
    with pytest.raises(TypeError, match=r"the tuple as one input.*several inputs as \*inputs"):
        l0.unit_groups(ByName(), (IDS,), attention_mask=MASK)


def test_a_decorated_forward_may_take_other_arguments_than_the_one_it_wraps():
    def adds_mask(forward: Any) -> Any:
        @functools.wraps(forward)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Tensor:
            return forward(self, *args, **kwargs, attention_mask=MASK)

        return wrapper

    class Decorated(Model):
        @adds_mask
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.run(input_ids, attention_mask)

    assert l0.unit_groups(Decorated(), IDS).sizes == {"embed": 6, "mid": 8}


def test_a_misspelled_keyword_is_refused_with_the_nearest_name():
    fn, params, buffers = l0.make_functional(ByName())
    with pytest.raises(TypeError, match="'attention_maks'; the closest is 'attention_mask'"):
        l0.count_macs(fn, params, buffers, IDS, attention_maks=MASK)
    with pytest.raises(TypeError, match="'attention_maks'; the closest is 'attention_mask'"):
        l0.unit_groups(ByName(), IDS, attention_maks=MASK)
    with pytest.raises(TypeError, match=r"do not fit: it has no 'args'; .* Give a tensor"):
        l0.unit_groups(KeywordOnly(), args=(IDS, MASK))


def test_lists_of_numbers_in_the_place_of_tensors_are_named():
    lists = {"input_ids": IDS.tolist(), "attention_mask": MASK}
    with pytest.raises(TypeError, match=r"numbers as input_ids: .*return_tensors='pt'"):
        l0.unit_groups(ByName(), lists)


def test_a_pre_hook_that_makes_the_inputs_is_not_refused():
    net = ByName()
    net.register_forward_pre_hook(lambda module, args: (args[0]["i"], args[0]["m"]))
    assert l0.unit_groups(net, ({"i": IDS, "m": MASK}, 1, 2)).sizes == {"embed": 6, "mid": 8}


def test_examples_that_a_module_writes_into_stay_as_they_were():
    class Writes(Model):
        def forward(self, x: Tensor, seen: list[Tensor]) -> list[Tensor]:
            x.mul_(2).add_(1)
            seen.append(self.out(torch.relu(self.mid(x))))
            return seen

    torch.manual_seed(0)
    x, seen, net = torch.ones(2, 6), [], Writes()
    groups = l0.unit_groups(net, (x, seen))
    assert groups.sizes == {"mid": 8}
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=groups)
    gates = {"mid": torch.tensor([3.0, -9] * 4)}
    l0.compact(fn, params, gates, buffers, spec, example_inputs=(x, seen))
    assert torch.equal(x, torch.ones(2, 6))
    assert seen == []


def test_outputs_without_a_tensor_are_no_evidence():
    class Silent(Model):
        def forward(self, x: Tensor) -> dict[str, Any]:
            self.out(torch.relu(self.mid(x)))
            return {"loss": None, "label": "text"}

    x, net = torch.ones(2, 6), Silent()
    with pytest.raises(ValueError, match="output on the examples holds no tensor"):
        l0.unit_groups(net, x)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups={"m": l0.group({"out.weight": l0.axis(1)})})
    gates = l0.init_gates(l0.random.key(0), spec)
    with pytest.raises(ValueError, match="outputs on the examples hold no tensor to compare"):
        l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
