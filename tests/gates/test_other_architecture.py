"""An old spec on compacted params is refused alike in every call that takes both."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l0func as l0

NET = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
FN, PARAMS, BUFFERS = l0.make_functional(NET)
KEYS = l0.random.split(l0.random.key(0), 4)
X = torch.ones(4, 6)
SPEC = l0.gate_spec(PARAMS, groups=l0.unit_groups(NET, X))
GATES = {"0": torch.tensor([4.0, -4.0] * 4)}
SMALL = l0.compact(FN, PARAMS, GATES, BUFFERS, SPEC)

CALLS = {
    "one mask": lambda apply: apply(SMALL.params, GATES, SMALL.buffers, KEYS[0], X),
    "fixed gates": lambda apply: apply(SMALL.params, GATES, SMALL.buffers, None, X),
    "rows": lambda apply: l0.per_example(apply)(SMALL.params, GATES, SMALL.buffers, KEYS, X),
    "prune": lambda apply: l0.prune(SMALL.params, GATES, SPEC),
    "penalty": lambda apply: l0.penalty(SMALL.params, GATES, SPEC),
}


@pytest.mark.parametrize("fn", [FN, SMALL.fn], ids=["whole", "small"])
@pytest.mark.parametrize("name", CALLS)
def test_params_of_another_architecture_than_the_spec_are_told_with_what_to_do(name, fn):
    words = (
        r"The spec has '.*' of shape \(.*8.*\); got \(.*4.*\).*build the spec from these params"
    )
    with pytest.raises(ValueError, match=words):
        CALLS[name](l0.gated(fn, SPEC))


def test_masks_of_another_architecture_are_told_with_what_to_do():
    masks = l0.mean_masks(GATES, SPEC)
    with pytest.raises(ValueError, match=r"does not fit .*make the masks from a spec of these"):
        l0.apply_masks(SMALL.params, masks)


@pytest.mark.parametrize("name", ["hard", "best", "test-time"])
def test_an_estimator_unlike_all_is_not_sent_to_one(name):
    with pytest.raises(ValueError, match=f"The estimators are .*; got '{name}'[.]$"):
        l0.prune(PARAMS, GATES, SPEC, name)
