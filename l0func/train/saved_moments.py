"""Whether the moments in a checkpoint are those of this run's optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

from l0func.train.optimizer import OTHERS, OwnMoments
from l0func.train.state import AnyState

SavedMoments: TypeAlias = dict[str, dict[str, dict[str, Tensor]]]
"""``{section: {leaf path: {name: tensor}}}``, as a file has them."""

_WAY_BACK = "Build the training with the optimizers that wrote it."


def check_saved_moments(
    path: str,
    saved: SavedMoments,
    state: AnyState,
    expected: Mapping[str, Tensor],
    *,
    has_begun: bool,
) -> None:
    """Refuse the moments of other optimizers, or of other leaves.

    Args:
        path: The file's name, for messages.
        saved: Its moments.
        state: A state from this run.
        expected: The tensors of this run by path.
        has_begun: Whether the file is of a state after a step.

    Raises:
        ValueError: The moments do not fit; the message names the leaf, and what both remember.
    """
    for section, of_section in saved.items():
        own = state.moments.get(section, {})
        for leaf in of_section:
            name = f"{section}.{leaf}"
            if name not in expected:
                raise ValueError(f"{path} remembers {name}, which this run does not have.")
            if leaf not in own:
                raise ValueError(
                    f"{path} remembers {sorted(of_section[leaf])} of {name}, which does not move "
                    f"in this run. {_WAY_BACK}"
                )
    for section, own in state.moments.items():
        of_section = saved.get(section, {})
        for leaf, of_run in own.items():
            name, of_leaf = f"{section}.{leaf}", of_section.get(leaf, {})
            # Before its first step an optimizer may remember nothing.
            if of_leaf or has_begun:
                _check_saved_names(path, name, of_leaf, of_run)
            _check_saved_shapes(path, name, of_leaf, expected[name])


def _check_saved_names(
    path: str, name: str, saved: Mapping[str, Tensor], own: OwnMoments | None
) -> None:
    if own is None:
        return
    wanted = own.keys() - {OTHERS}
    if set(saved) == wanted or (OTHERS in own and saved.keys() >= wanted):
        return
    unknown = "" if own else " In a state of your own, None stands for moments not known yet."
    raise ValueError(
        f"{path} remembers {sorted(saved) or 'nothing'} of {name}, and this run's state has "
        f"{sorted(wanted) or 'no moments'}: the file is of another optimizer. {_WAY_BACK}{unknown}"
    )


def _check_saved_shapes(path: str, name: str, moments: Mapping[str, Tensor], leaf: Tensor) -> None:
    for kind, t in moments.items():
        if t.dim() > leaf.dim():
            raise ValueError(
                f"{path} remembers a {kind} of shape {tuple(t.shape)} of {name}: it is another "
                "leaf's."
            )
