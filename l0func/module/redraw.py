"""New initial values in a wrapped module's own parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from l0func.pure.init_params import Initialiser, init_params


@torch.no_grad()
def redraw_in_place(
    key: Tensor, params: Mapping[str, Tensor], initialisers: Mapping[str, Initialiser | None]
) -> None:
    """Draw parameters anew in place; a wildcard leaves frozen parameters as they are.

    Args:
        key: A key, shape ``(2,)``.
        params: The parameters, by path.
        initialisers: ``{pattern: initialiser}``, as for :func:`l0func.init_params`.
    """
    new = init_params(key, params, initialisers)
    for path, p in params.items():
        if p.requires_grad or path in initialisers:
            p.copy_(new[path])
