"""The eps of an RMSNorm that an author wrote out, for a state with fewer units.

Compaction multiplies the norm's weight, which is in the state, and its eps, which is not. The norm
is recognised by what it computes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from l0func.compaction.cut import SubmoduleCut
from l0func.compaction.resize import RESIZERS
from l0func.pure.part import Part
from l0func.pure.places import Contents

# An eps that no rounding hides.
_TRIAL_EPS = 0.5

_RMS_NORM_FORMS: tuple[tuple[float, Callable[[Tensor, float], Tensor]], ...] = (
    (1.0, lambda x, eps: x / (x.square().mean(-1, keepdim=True) + eps).sqrt()),
    (0.5, lambda x, eps: x / (x.square().mean(-1, keepdim=True).sqrt() + eps)),
)
"""Ways to write an RMSNorm, each with the power of N / N' that its eps is multiplied by."""


def with_norm_eps(cut: SubmoduleCut, part: Part) -> Part:
    """A part with an eps for the kept units, if it is an RMSNorm over the lost ones.

    Args:
        cut: The module's cut.
        part: The module after it.
    """
    is_norm_like = len(cut.tensors) == 1 and cut.kept_indices and not cut.part.children
    if not is_norm_like or issubclass(cut.part.kind, tuple(RESIZERS)):
        return part
    (name,) = cut.tensors
    if len(cut.shape(name)) != 1:
        return part
    ratio = len(cut.kept(name, 0)) / cut.kept_count(name, 0)
    for attribute, value in cut.part.attributes().items():
        if type(value) is float:
            power = _eps_power(cut.part, name, attribute, len(cut.kept(name, 0)))
            part = part.with_attribute(attribute, value * ratio**power)
    return part


def _eps_power(part: Part, name: str, attribute: str, size: int) -> float:
    """The power of N / N' that a number in a module is multiplied by; 0 if it is no eps."""
    weight = torch.linspace(0.5, 2.0, size, device="cpu")
    x = torch.linspace(-1.0, 2.0, 2 * size, device="cpu").reshape(2, size)
    changed = part.with_attribute(attribute, _TRIAL_EPS)
    module = changed.new()
    changed.fill(module, Contents({part.paths()[name]: weight}, []))
    try:
        output = module(x)
    except Exception:
        # A forward of unknown code may raise anything on tensors that it does not expect.
        return 0.0
    for power, form in _RMS_NORM_FORMS:
        normed = form(x, _TRIAL_EPS)
        if any(_is_equal(output, normed * (weight + offset)) for offset in (0.0, 1.0)):
            return power
    return 0.0


def _is_equal(output: object, expected: Tensor) -> bool:
    if not isinstance(output, Tensor) or output.shape != expected.shape:
        return False
    return torch.allclose(output, expected, rtol=1e-4, atol=1e-5)
