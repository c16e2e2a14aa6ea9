"""Whether torch's own compiler builds the contraction's kernel; the engine asks."""

from __future__ import annotations

import warnings

from l0func.internal.context import compiles, compiling
from l0func.kernels.choice import chosen
from l0func.kernels.loading import reason_of


class _State:
    """Whether a compilation has failed."""

    def __init__(self) -> None:
        self.broken = False


_state = _State()


def inductor_in_use() -> bool:
    """Whether a call made now compiles its contractions."""
    if _state.broken or not compiles() or chosen() == "eager":
        return False
    return chosen() == "compiled" or compiling()


def inductor_can_compile() -> bool:
    """Whether no compilation has failed."""
    return not _state.broken


def give_up_inductor(error: Exception) -> None:
    """Run the eager kernel from now on, and warn the first time."""
    if _state.broken:
        return
    _state.broken = True
    warnings.warn(
        "The compiled kernel does not build on this machine, so the eager one runs: "
        f"{reason_of(error)}. Compiling needs a C++ compiler.",
        stacklevel=2,
    )
