"""The ARM gradient, for gates that are 0 or 1: their draws have no slope in the gate locations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from l0func import random
from l0func.distributions import BernoulliGate
from l0func.distributions.elementwise import logistic
from l0func.gates.checks import Gates, check_gates, check_single_key
from l0func.gates.masks import apply_masks, gate_keys, masks_of
from l0func.internal.tree import Tree
from l0func.internal.untyped import untyped
from l0func.internal.whole import check_whole
from l0func.spec.plan import GateSpec, check_spec


def arm(fn: Callable[..., Tensor], spec: GateSpec) -> Callable[..., Tensor]:
    r"""A loss behind Bernoulli gates with the augment-REINFORCE-merge (ARM) gradient.

    .. math::
        \nabla_{\log\alpha} E[f(z)] =
        E_u\bigl[(f(1[u > \sigma(-\log\alpha)]) - f(1[u < \sigma(\log\alpha)]))(u - 1/2)\bigr]

    The gradient in the gate locations is unbiased. It takes two evaluations of the loss; both must
    be finite, and they share one draw, so that most of the variance cancels. The value, and its
    gradient in the parameters, are those of the first evaluation. First derivatives only. The
    expected L0 has its own exact gradient: add :func:`l0func.penalty`.

    Source: Yin & Zhou (2019), arXiv:1807.11143, Eq. 8; Li & Ji (2019), arXiv:1904.04432, for L0.

    Args:
        fn: ``fn(params, buffers, *inputs)`` returns a loss, one number. Under
            :func:`l0func.per_example` it gives the loss for one row, shape ``(1,)``, so that every
            row compares its own two masks.
        spec: The gate spec; all its gates are :class:`BernoulliGate`.

    Returns:
        ``apply(params, gates, buffers, key, *inputs)`` returns that number; it also works under
        :func:`l0func.per_example`.

    Raises:
        TypeError: ``spec`` is not a spec.
        ValueError: A gate has another distribution; or, in a call, the loss is not one number.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> spec = l0.gate_spec({"w": torch.ones(3)}, distribution=l0.BernoulliGate())
        >>> def loss(params, buffers, target):
        ...     return (params["w"] - target).square().sum()
        >>> apply = l0.arm(loss, spec)
        >>> gates = {"w": torch.zeros(3, requires_grad=True)}
        >>> value = apply({"w": torch.ones(3)}, gates, {}, l0.random.key(0), torch.zeros(3))
        >>> value.backward()
        >>> gates["w"].grad.shape
        torch.Size([3])
    """
    check_spec(spec)
    _check_bernoulli(spec)

    def apply(
        params: Tree, gates: Tree, buffers: Tree, key: Tensor, /, *inputs: Any, **kwargs: Any
    ) -> Tensor:
        check_whole("arm", params=params, gates=gates, buffers=buffers)
        check_single_key(key)
        named = check_gates(gates, spec)
        uniforms = _gate_uniforms(key, named, spec)

        def loss(z: Gates) -> Tensor:
            masked = apply_masks(params, masks_of(z, spec))
            return _one_number(fn(masked, buffers, *inputs, **kwargs))

        first = loss(_first_gates(uniforms, named))
        other = loss(_other_gates(uniforms, named))
        gain = (first - other).detach()
        slope = _slope(uniforms, named)
        # The added term is 0; only its gradient counts.
        return first + gain * (slope - slope.detach())

    return apply


def _check_bernoulli(spec: GateSpec) -> None:
    for gate in spec.gates:
        if not isinstance(gate.distribution, BernoulliGate):
            raise ValueError(
                f"arm is for gates that are 0 or 1; {gate.name!r} is {gate.distribution}. Build "
                f"the spec with distribution=l0func.BernoulliGate(), or use l0func.gated, whose "
                "draws have slopes."
            )


def _gate_uniforms(key: Tensor, gates: Gates, spec: GateSpec) -> Gates:
    """One uniform for every gate, in the gates' dtype."""
    keys = gate_keys(key, gates, spec.gates)
    draws = random.uniforms(keys, [gate.shape for gate in spec.gates])
    uniforms: Gates = {}
    for gate, draw in zip(spec.gates, draws, strict=True):
        uniforms[gate.name] = draw.to(gates[gate.name].dtype)
    return uniforms


def _first_gates(uniforms: Gates, gates: Gates) -> Gates:
    """The gates that ``BernoulliGate.quantile`` gives, open where u > σ(-log α)."""
    z: Gates = {}
    for name, log_alpha in gates.items():
        opened = uniforms[name] > logistic(-log_alpha)
        z[name] = opened.to(log_alpha.dtype).detach()
    return z


def _other_gates(uniforms: Gates, gates: Gates) -> Gates:
    """The gates at 1 - u, open where u < σ(log α)."""
    z: Gates = {}
    for name, log_alpha in gates.items():
        opened = uniforms[name] < logistic(log_alpha)
        z[name] = opened.to(log_alpha.dtype).detach()
    return z


def _one_number(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"arm compares two losses, each one number; got {got}. Average over the batch."
        )
    return loss


def _slope(uniforms: Gates, gates: Gates) -> Tensor:
    """The sum of (u - 1/2) log α over all gates."""
    terms: list[Tensor] = []
    for name, log_alpha in gates.items():
        weight = (uniforms[name] - 0.5).detach()
        terms.append((weight * log_alpha).sum())
    return untyped.stack(terms).sum()
