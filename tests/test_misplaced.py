"""Values in the place of others are named as such, with what to write instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import l0func as l0

NET = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
FN, PARAMS, BUFFERS = l0.make_functional(NET)
SPEC = l0.gate_spec(PARAMS, {"*.weight": l0.element()})
GATES = {"0.weight": torch.ones(6, 8), "2.weight": torch.ones(3, 6)}
X = torch.ones(2, 8)
KEY = l0.random.key(0)


@pytest.mark.parametrize("share", [0.1, {"*": 0.1}, np.float64(0.1)])
@pytest.mark.parametrize(
    "call",
    [
        lambda share: l0.prune(PARAMS, GATES, SPEC, share),
        lambda share: l0.summary(PARAMS, GATES, SPEC, share),
        lambda share: l0.compact(FN, PARAMS, GATES, BUFFERS, SPEC, share),
    ],
)
def test_a_density_in_the_place_of_the_estimator_is_named(call, share):
    with pytest.raises(ValueError, match=r"The estimators are .* given by name.*: density="):
        call(share)


@pytest.mark.parametrize("nothing", [None, True, b"mean", [1]])
def test_an_estimator_that_is_no_text_is_refused_in_the_words_of_estimators(nothing):
    with pytest.raises(ValueError, match="The estimators are"):
        l0.prune(PARAMS, GATES, SPEC, nothing)
    with pytest.raises(ValueError, match="sampling is one of"):
        l0.gated(FN, SPEC, sampling=nothing)


@pytest.mark.parametrize(
    "call",
    [l0.expected_sparsity, l0.expected_l0, l0.mean_masks, l0.deterministic_masks],
)
def test_a_spec_in_the_place_of_gates_is_named(call):
    with pytest.raises(TypeError, match=r"A gate spec comes from l0func.gate_spec; got dict"):
        call(SPEC, GATES)


@pytest.mark.parametrize("counts", [960, None, {"w": 1}, torch.tensor(960)])
@pytest.mark.parametrize("call", [l0.expected_macs, l0.realised_macs])
def test_counts_that_are_no_counts_are_named(call, counts):
    with pytest.raises(TypeError, match=r"counts come from l0func.count_macs; got"):
        call(GATES, SPEC, counts)


def test_a_flag_in_the_place_of_a_cost_is_refused():
    with pytest.raises(TypeError, match=r"lam of '0.weight' is a number or a tensor; got True"):
        l0.penalty(PARAMS, GATES, SPEC, lam=True)


@pytest.mark.parametrize("name", ["kaiming_normal_", "normal_", "zeros_", "orthogonal_"])
def test_a_function_of_torch_nn_init_goes_by_its_name(name):
    with pytest.raises(TypeError, match=f"goes by its name.*write '{name}'"):
        l0.init_params(KEY, PARAMS, {"*.weight": getattr(nn.init, name)})


@pytest.mark.parametrize(
    "call",
    [
        lambda x: l0.unit_groups(NET, x),
        lambda x: l0.compact(FN, PARAMS, GATES, BUFFERS, SPEC, example_inputs=x),
        lambda x: l0.count_macs(FN, PARAMS, BUFFERS, x),
    ],
)
def test_an_array_of_numpy_as_an_example_is_named(call):
    with pytest.raises(TypeError, match=r"got a numpy array: pass a tensor"):
        call(X.cpu().numpy())


def test_a_class_in_the_place_of_a_module_is_named():
    with pytest.raises(TypeError, match=r"eager torch.nn.Module; got the class Linear"):
        l0.make_functional(nn.Linear)


def test_the_table_and_the_warning_speak_of_a_density_where_one_decided():
    gates = GATES | {"2.weight": torch.zeros(3, 6)}
    with pytest.warns(UserWarning, match=r"'2.weight' are closed at density 0.5"):
        table = l0.summary(PARAMS, gates, SPEC, density=0.5)
    assert str(table).endswith("(realised at density 0.5)")
    assert str(l0.summary(PARAMS, gates, SPEC)).endswith(
        "(realised under the 'louizos' estimator)"
    )
