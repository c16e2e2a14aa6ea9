"""Which test-time gates are open, as numbers that are counted."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from l0func.gates.checks import Gates


def open_or_nan(log_alpha: Tensor, z: Tensor) -> Tensor:
    """1 where a test-time gate is open, 0 where it is closed, NaN where its location is NaN."""
    # A NaN is neither open nor closed: a diverged network must not meet a target.
    is_open = (z != 0).to(z.dtype)
    return torch.where(log_alpha.isnan(), torch.nan, is_open)


def counting_dtype(gates: Gates) -> torch.dtype:
    """The dtype in which open gates are counted: that of the gates, at least float32."""
    # Half precision cannot count the entries of a large parameter.
    return reduce(torch.promote_types, [t.dtype for t in gates.values()], torch.float32)


def at_least_float32(opens: Gates) -> Gates:
    """Open gates in the dtype in which they are counted."""
    dtype = counting_dtype(opens)
    return {name: t.to(dtype) for name, t in opens.items()}
