"""Gradients of an expectation over gates that are 0 or 1, where no draw has a slope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from l0func import random
from l0func.distributions import BernoulliGate
from l0func.gates.checks import Gates, check_gates, check_single_key
from l0func.gates.masks import apply_masks, gate_keys, masks_of
from l0func.internal.tree import Tree
from l0func.internal.untyped import untyped
from l0func.spec.plan import GateSpec, check_spec


def arm(fn: Callable[..., Any], spec: GateSpec) -> Callable[..., Tensor]:
    r"""A loss behind Bernoulli gates, whose gradient in their locations is
    augment-REINFORCE-merge.

    .. math::
        \nabla_{\log\alpha} E[f(z)] =
        E_u\bigl[(f(1[u > \sigma(-\log\alpha)]) - f(1[u < \sigma(\log\alpha)]))(u - 1/2)\bigr]

    unbiased, and its two evaluations, which must both be finite, share the draw, which takes most
    of the variance away. The value, and its gradient in the parameters, are those of the first
    evaluation. First derivatives only. The expected L0 has its own exact gradient: add
    :func:`l0func.penalty`.

    Source: Yin & Zhou (2019), arXiv:1807.11143, Eq. 8; Li & Ji (2019), arXiv:1904.04432, for L0.

    Args:
        fn: ``fn(params, buffers, *inputs)`` to a loss, one number. Under
            :func:`l0func.per_example` it is that of a row, of shape ``(1,)``, so that every row
            compares its own two masks.
        spec: The plan; all of its gates are :class:`BernoulliGate`.

    Returns:
        ``apply(params, gates, buffers, key, *inputs)`` to that number, for
        :func:`l0func.per_example` too.

    Raises:
        TypeError: ``spec`` is not a spec.
        ValueError: A gate has another distribution; or, when it is called, the output is not one
            number.
    """
    check_spec(spec)
    for gate in spec.gates:
        if not isinstance(gate.distribution, BernoulliGate):
            raise ValueError(
                f"arm is for gates that are 0 or 1; {gate.name!r} is {gate.distribution}. Build "
                f"the spec with "
                "distribution=l0func.BernoulliGate(), or use l0func.gated, whose draws have "
                "slopes."
            )

    def apply(
        params: Tree, gates: Tree, buffers: Tree, key: Tensor, /, *inputs: Any, **kwargs: Any
    ) -> Tensor:
        check_single_key(key)
        named = check_gates(gates, spec)
        draws = random.uniforms(
            gate_keys(key, named, spec.gates), [gate.shape for gate in spec.gates]
        )
        u = {
            gate.name: draw.to(named[gate.name].dtype)
            for gate, draw in zip(spec.gates, draws, strict=True)
        }

        def value(z: Gates) -> Tensor:
            loss = fn(apply_masks(params, masks_of(z, spec)), buffers, *inputs, **kwargs)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise ValueError(
                    f"arm compares two losses, each one number; got {got}. Average over the batch."
                )
            return loss

        first = value(
            {name: (u[name] > (-la).sigmoid()).to(la.dtype).detach() for name, la in named.items()}
        )
        other = value(
            {name: (u[name] < la.sigmoid()).to(la.dtype).detach() for name, la in named.items()}
        )
        gain = (first - other).detach()
        slope = untyped.stack(
            [((u[name] - 0.5).detach() * la).sum() for name, la in named.items()]
        ).sum()
        return first + gain * (slope - slope.detach())

    return apply
