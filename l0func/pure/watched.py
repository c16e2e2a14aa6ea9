"""The context around one eager call of a pure function.

It notes what the backward pass runs again, refuses what would run only when a map has ended, and
warns of draws without a key.
"""

from __future__ import annotations

from types import CodeType, TracebackType
from typing import Any

import torch

from l0func.internal.arose import classes_named, passed_by
from l0func.internal.context import innermost_is_vmap
from l0func.internal.untyped import untyped
from l0func.pure.other_draws import OtherDraws
from l0func.pure.recompute import DrawSource, Watch
from l0func.pure.regions import Recomputed, hooked_block

_AROUND = (
    "Take the checkpoint out of the module and put it around the call: "
    "torch.utils.checkpoint.checkpoint(rows, params, gates, buffers, keys, x, "
    "use_reentrant=False), with rows from l0func.per_example or l0func.gated."
)
_APART = (
    "Write it with other operations; or return from forward what it takes, and apply it to the "
    "outputs."
)
# What torch says at the call; the first is from torch 2.1.
_BLOCK_ERRORS = ("vmap over _NoopSaveInputs", "yet support saved tensor hooks")
_FUNCTION_ERROR = "must override the setup_context"


class Watched(Watch):
    """A context around one eager call: a :class:`Watch` that also refuses what cannot work.

    Args:
        code: The code that enters it.
        other_draws: What is known of draws by other generators than the key's, in this function.

    Raises:
        ValueError: On leaving: a block in torch.utils.checkpoint ran under a vmap or another
            transform, and its recomputation would run when the transform has ended.
    """

    def __init__(self, code: CodeType, other_draws: OtherDraws) -> None:
        super().__init__(code, looks=torch.is_grad_enabled())
        self.mapped = self.looks and innermost_is_vmap()
        self.blocks: list[Recomputed] = []
        self.other_draws = other_draws

    def saw(self, draws: DrawSource) -> None:
        """Take note of the regions around a torch function."""
        if not self.mapped:
            super().saw(draws)
            return
        block = hooked_block()
        if block is None or block == self.outer:
            return
        if block not in self.blocks:
            self.blocks.append(block)

    def __enter__(self) -> Watched:
        self.states = self.other_draws.before()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is not None:
            _explain(error)
        blocks = list(self.blocks)
        self.blocks.clear()
        if any(_is_recomputed(block) for block in blocks):
            raise ValueError(
                "A block in torch.utils.checkpoint ran inside a map over rows, and the backward "
                f"pass would run it again when the map has ended. {_AROUND}"
            )
        if error is None:
            self.other_draws.after(self.states)


def _is_recomputed(block: Recomputed) -> bool:
    """Whether a tensor that the backward pass needs was not kept."""
    return any(holder() is not None for holder in block.record.weak_holders)


def _explain(error: BaseException) -> None:
    """Raise torch's own refusals of checkpoints under a transform in other words."""
    text = str(error)
    if any(part in text for part in _BLOCK_ERRORS):
        raise ValueError(
            "A block in torch.utils.checkpoint ran inside torch.func.grad or a map over rows, and "
            f"torch cannot run it again there. {_AROUND} torch.autograd.grad and backward() "
            "differentiate a checkpoint inside the module."
        ) from error
    if _FUNCTION_ERROR in text:
        raise _without_setup(error) from error


def _without_setup(error: BaseException) -> ValueError:
    """The refusal of a Function without setup_context, by the Function's name."""
    kinds = [one.own for one in passed_by(error) if _is_function(one.own)]
    # torch 2.14 applies a Function in C++, without a frame that shows it.
    kind = (kinds or _without_setup_near(error) or [None])[0]
    start = (
        f"{'' if kind is None else f'{kind.__qualname__}, '}a torch.autograd.Function without "
        "setup_context, ran inside a map over rows or another transform, and torch cannot "
        "transform it."
    )
    if kind is None:
        return ValueError(f"In this call {start} {_APART}")
    if kind.__module__ == "torch.utils.checkpoint":
        use = "It is torch.utils.checkpoint with use_reentrant=True."
        return ValueError(f"{start} {use} {_AROUND}")
    if kind.__module__.startswith("torch."):
        return ValueError(f"{start} It is torch's own, in {kind.__module__}. {_APART}")
    return ValueError(
        f"{start} Give it setup_context(ctx, inputs, output), a forward(*inputs) without ctx, and "
        f"generate_vmap_rule = True. Is it not yours to change? {_APART}"
    )


def _without_setup_near(error: BaseException) -> list[type[torch.autograd.Function]]:
    none = untyped.autograd.Function.setup_context
    found: list[Any] = classes_named(error, torch.autograd.Function)
    return [kind for kind in found if kind.setup_context is none]


def _is_function(own: object) -> bool:
    return isinstance(own, type) and issubclass(own, torch.autograd.Function)
