"""Draws by Python's or numpy's global generator during a call: no key decides them."""

from __future__ import annotations

import pickle
import random as python_random
import sys
from typing import Any

from l0func.internal.watch import warn_user

_FIRST_CALLS = 4
_LATER_CALLS = 128

States = dict[str, Any]
"""The state of each global generator, by the name of its module."""


class OtherDraws:
    """Whether a pure function moves a generator without a key, and whether it has said so.

    To read a state costs some ten microseconds. So the first four calls of a function are watched,
    and then every 128th: a draw that comes later, as in training mode alone, is found in the end.
    All functions that are derived from one share this.
    """

    def __init__(self) -> None:
        self.told = False
        self.calls = 0

    def before(self) -> States | None:
        """The states before a call, or None for a call that is not watched."""
        self.calls += 1
        if self.told or (self.calls > _FIRST_CALLS and self.calls % _LATER_CALLS):
            return None
        return _states()

    def after(self, states: States | None) -> None:
        """Warn at the user's line, the first time that a generator has moved since then.

        Args:
            states: What :meth:`before` returned.
        """
        if states is None or self.told:
            return
        now = _states()
        moved = [name for name, state in states.items() if now.get(name, state) != state]
        if not moved:
            return
        self.told = True
        warn_user(
            f"The global generator of {' and of '.join(moved)} moved during this call. If forward "
            "draws from it, equal keys give different results, all rows share one draw, and "
            "nothing can be drawn again. Draw with torch, whose numbers follow the key: "
            "torch.rand(()) < 0.5 in place of random.random() < 0.5. This warning comes once for "
            "each function; another thread may have moved the generator, too."
        )


def _states() -> States:
    states: States = {"Python's random": python_random.getstate()}
    # numpy loads its generators at their first use.
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        states["numpy.random"] = pickle.dumps(numpy_random.get_state(legacy=False))
    return states
