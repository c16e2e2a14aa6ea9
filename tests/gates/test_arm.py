"""Gradients through gates that are 0 or 1, against the sum over all masks of a tiny network."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import l0func as l0
from l0func.internal import tree

KEYS = 200_000
X, Y = torch.tensor([[1.0, -2.0]]), torch.tensor([1])


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    )
    spec = l0.gate_spec(
        params, {"0.weight": l0.element(), "2.weight": l0.axis(1)}, distribution=l0.BernoulliGate()
    )
    gates = {
        "0.weight": torch.tensor([[0.5, -1.0], [2.0, 0.1]]),
        "2.weight": torch.tensor([-0.3, 0.8]),
    }
    scaled = {name: 3 * p for name, p in params.items()}

    def loss(params, buffers, x, y):
        return F.cross_entropy(fn(params, buffers, x), y)

    return loss, scaled, buffers, spec, gates


def expectation(loss, params, buffers, gates):
    """The expected loss, mask by mask."""
    total = torch.zeros(())
    for bits in product((0.0, 1.0), repeat=6):
        z = torch.tensor(bits)
        first, second = z[:4].reshape(2, 2), z[4:]
        probability = torch.ones(())
        for la, value in ((gates["0.weight"], first), (gates["2.weight"], second)):
            probability = (
                probability * torch.where(value == 1, la.sigmoid(), 1 - la.sigmoid()).prod()
            )
        masked = {
            **params,
            "0.weight": params["0.weight"] * first,
            "2.weight": params["2.weight"] * second,
        }
        total = total + probability * loss(masked, buffers, X, Y)
    return total


def averaged(apply, params, gates, buffers):
    keys = l0.random.split(l0.random.key(3), KEYS)
    slopes = torch.vmap(torch.func.grad(apply, argnums=(0, 1)), (None, None, None, 0, None, None))(
        params, gates, buffers, keys, X, Y
    )
    means = tree.map_tensors(lambda t: t.mean(0), slopes)
    errors = tree.map_tensors(lambda t: t.std(0) / KEYS**0.5 + 1e-7, slopes)
    return tuple(tuple(tree.leaves(part) for part in of) for of in (means, errors))


def test_the_gradient_of_arm_averages_to_that_of_the_sum_over_all_masks(tiny):
    loss, params, buffers, spec, gates = tiny
    exact = torch.func.grad(lambda p, g: expectation(loss, p, buffers, g), argnums=(0, 1))(
        params, gates
    )
    means, errors = averaged(l0.arm(loss, spec), params, gates, buffers)
    for mean, error, truth in zip(means, errors, exact, strict=True):
        for name in truth:
            assert ((mean[name] - truth[name]).abs() <= 5 * error[name]).all(), name
    assert max(t.abs().max() for t in exact[1].values()) > 0.05


@pytest.mark.slow
def test_straight_through_is_unbiased_for_a_loss_linear_in_each_gate_and_biased_for_others(tiny):
    loss, params, buffers, spec, gates = tiny

    def linear(params, buffers, x, y):
        # Linear in every gate, as no gate meets itself.
        return (params["2.weight"] @ params["0.weight"] @ x[0]).sum()

    for own, unbiased in ((linear, True), (loss, False)):
        exact = torch.func.grad(lambda g, own=own: expectation(own, params, buffers, g))(gates)
        means, errors = averaged(l0.gated(own, spec), params, gates, buffers)
        within = [((means[1][n] - exact[n]).abs() <= 5 * errors[1][n]).all() for n in exact]
        assert all(within) == unbiased


def test_arm_under_a_mask_for_every_example_is_row_by_row(tiny):
    loss, params, buffers, spec, gates = tiny
    keys, x, y = (
        l0.random.split(l0.random.key(1), 4),
        torch.randn(4, 2),
        torch.tensor([0, 1, 1, 0]),
    )

    def of_row(params, buffers, x, y):
        return loss(params, buffers, x, y).unsqueeze(0)

    apply = l0.arm(of_row, spec)

    def together(gates):
        return l0.per_example(apply)(params, gates, buffers, keys, x, y).sum()

    def apart(gates):
        return sum(
            apply(params, gates, buffers, keys[i], x[i : i + 1], y[i : i + 1]).sum()
            for i in range(4)
        )

    for ours, theirs in zip(
        *(torch.func.grad_and_value(f)(gates) for f in (together, apart)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_draw_is_the_first_evaluation(tiny):
    loss, params, buffers, spec, gates = tiny
    key = l0.random.key(5)
    masks = l0.sample_masks(key, gates, spec)
    assert all(((m == 0) | (m == 1)).all() for m in masks.values())
    torch.testing.assert_close(
        l0.arm(loss, spec)(params, gates, buffers, key, X, Y),
        loss(l0.apply_masks(params, masks), buffers, X, Y),
    )


def test_what_arm_cannot_do_is_refused(tiny):
    loss, params, buffers, spec, gates = tiny
    with pytest.raises(ValueError, match=r"'0\.weight' is HardConcrete"):
        l0.arm(loss, l0.gate_spec(params))
    with pytest.raises(ValueError, match=r"each one number; got \(2, 2\)"):
        l0.arm(lambda p, b: p["0.weight"], spec)(params, gates, buffers, l0.random.key(0))
