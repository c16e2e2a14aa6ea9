"""Parameters drawn anew: every initialiser of torch by name, by path, from a key."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn

import l0func as l0
from l0func import random
from l0func.pure.init_params import TORCH_INITIALISERS

KEY = random.key(0)
HAS_GENERATOR = "generator" in inspect.signature(nn.init.normal_).parameters
SETTINGS = {"constant_": {"val": 0.5}, "sparse_": {"sparsity": 0.1}}
needs_generator = pytest.mark.skipif(
    not HAS_GENERATOR, reason="torch 2.1 is refused by name; see below"
)


def params() -> dict[str, torch.Tensor]:
    return {
        "a.weight": torch.full((30, 20), 7.0),
        "b.weight": torch.full((30, 20), 7.0),
        "a.bias": torch.full((30,), 7.0),
    }


@needs_generator
@pytest.mark.parametrize("name", [n for n in TORCH_INITIALISERS if n != "dirac_"])
def test_every_initialiser_of_torch_draws_from_the_key_alone(name):
    rule = {"*.weight": (name, SETTINGS.get(name, {}))}
    state = torch.get_rng_state()
    drawn = l0.init_params(KEY, params(), rule)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(drawn["a.weight"], l0.init_params(KEY, params(), rule)["a.weight"])
    assert not (drawn["a.weight"] == 7).any()
    assert (drawn["a.bias"] == 7).all()
    if name not in ("constant_", "ones_", "zeros_", "eye_"):
        assert not torch.equal(drawn["a.weight"], drawn["b.weight"])
        assert not torch.equal(
            drawn["a.weight"], l0.init_params(random.key(1), params(), rule)["a.weight"]
        )


def test_initialisers_that_do_not_draw_set_what_they_say():
    kernel = l0.init_params(KEY, {"w": torch.ones(2, 2, 3)}, {"w": "dirac_"})["w"]
    x = random.normal(KEY, (1, 2, 5))
    torch.testing.assert_close(nn.functional.conv1d(x, kernel, padding=1), x)
    assert torch.equal(
        l0.init_params(KEY, {"w": torch.ones(2, 3)}, {"w": "eye"})["w"], torch.eye(2, 3)
    )
    assert (
        l0.init_params(KEY, {"w": torch.ones(2)}, {"w": ("constant_", {"val": 0.25})})["w"] == 0.25
    ).all()


@needs_generator
def test_initialisers_have_the_moments_that_torch_gives_them():
    wide = {"w": torch.empty(400, 300)}
    for name, settings, deviation in (
        ("normal", {"std": 0.3}, 0.3),
        ("kaiming_uniform_", {"a": math.sqrt(5)}, 1 / math.sqrt(3 * 300)),
        ("xavier_normal_", {}, math.sqrt(2 / 700)),
    ):
        w = l0.init_params(KEY, wide, {"w": (name, settings)})["w"]
        assert w.std().item() == pytest.approx(deviation, rel=0.02)
    q = l0.init_params(KEY, {"w": torch.empty(20, 20)}, {"w": "orthogonal"})["w"]
    torch.testing.assert_close(q @ q.T, torch.eye(20), atol=1e-5, rtol=0)


def test_sparse_columns_have_the_share_of_zeros_that_they_should():
    w = l0.init_params(
        KEY, {"w": torch.empty(30, 200)}, {"w": ("sparse", {"sparsity": 0.25, "std": 0.5})}
    )["w"]
    assert ((w == 0).sum(0) == math.ceil(0.25 * 30)).all()
    assert w[w != 0].std().item() == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ValueError, match=r"sparse_ fills matrices; got shape \(3,\)"):
        l0.init_params(KEY, {"b": torch.ones(3)}, {"b": ("sparse", {"sparsity": 0.1})})


def test_the_first_pattern_wins_and_callables_and_none_are_rules():
    rules = {"a.bias": None, "a.*": lambda key, shape: random.normal(key, shape), "*": "zeros"}
    drawn = l0.init_params(KEY, params(), rules)
    assert (drawn["a.bias"] == 7).all()
    assert abs(drawn["a.weight"].std().item() - 1) < 0.1
    assert (drawn["b.weight"] == 0).all()
    wide = l0.init_params(
        KEY,
        {"a": {"w": torch.ones(3, dtype=torch.float64)}},
        {"a.w": lambda k, s: random.uniform(k, s)},
    )
    assert wide["a"]["w"].dtype == torch.float64


def test_what_is_no_initialiser_is_named():
    with pytest.raises(
        ValueError,
        match=r"torch.nn.init has no 'kaimin_uniform'; the closest is 'kaiming_uniform_'",
    ):
        l0.init_params(KEY, params(), {"*": "kaimin_uniform"})
    with pytest.raises(ValueError, match=r"'c\.\*' matches no parameter"):
        l0.init_params(KEY, params(), {"c.*": "zeros"})
    with pytest.raises(
        ValueError, match=r"'a.bias' has shape \(30,\); its initialiser gave \(2,\)"
    ):
        l0.init_params(KEY, params(), {"a.bias": lambda key, shape: torch.ones(2)})
    with pytest.raises(TypeError, match="A key is an int64 tensor"):
        l0.init_params(0, params(), {"*": "zeros"})
    with pytest.raises(
        ValueError, match="cannot be mapped or compiled" if HAS_GENERATOR else "takes no generator"
    ):
        torch.vmap(lambda key: l0.init_params(key, {"w": torch.ones(2, 2)}, {"w": "normal_"}))(
            random.split(KEY, 2)
        )


@needs_generator
def test_a_shape_that_an_initialiser_cannot_fill_is_named_and_the_advice_helps():
    net = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8))
    own = {path: p.detach() for path, p in net.named_parameters()}
    rules = {"*.weight": "kaiming_normal_", "*.bias": "zeros_"}
    match = r"kaiming_normal_ cannot draw '1.weight' of shape \(8,\).*put '1\.\*': None to keep"
    with pytest.raises(ValueError, match=match):
        l0.init_params(KEY, own, rules)
    drawn = l0.init_params(KEY, own, {"1.*": None, **rules})
    assert torch.equal(drawn["1.weight"], own["1.weight"])
    assert (drawn["0.bias"] == 0).all()


VECTOR_REFUSERS = ["xavier_uniform", "xavier_normal", "orthogonal", "eye", "dirac", "sparse"]


@needs_generator
@pytest.mark.parametrize("name", [*VECTOR_REFUSERS, "kaiming_uniform"])
def test_every_initialiser_that_refuses_a_vector_names_it(name: str):
    with pytest.raises(ValueError, match=rf"{name}_ cannot draw 'bias' of shape \(3,\).*'bias'"):
        l0.init_params(KEY, {"bias": torch.ones(3)}, {"*": (name, SETTINGS.get(f"{name}_", {}))})


@needs_generator
@pytest.mark.parametrize(
    ("name", "settings"), [("constant_", {}), ("normal_", {"sd": 0.1}), ("sparse_", {})]
)
def test_wrong_settings_of_an_initialiser_name_the_parameter(
    name: str, settings: dict[str, float]
):
    with pytest.raises(TypeError, match=rf"{name} cannot draw 'a.weight' with the settings"):
        l0.init_params(KEY, params(), {"a.weight": (name, settings)})


@pytest.mark.skipif(HAS_GENERATOR, reason="this torch's initialisers take a generator")
def test_initialisers_without_a_generator_are_refused_by_name():
    with pytest.raises(ValueError, match=r"torch.nn.init.normal_ takes no generator in torch 2.1"):
        l0.init_params(KEY, params(), {"*": "normal_"})
