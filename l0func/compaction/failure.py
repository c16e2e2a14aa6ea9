"""Why a try failed: how far it came, and the module and the operation where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from traceback import walk_tb
from types import FrameType
from typing import Any, NamedTuple, cast

from torch import nn
from torch.overrides import TorchFunctionMode

from l0func.compaction.examples import first_line
from l0func.internal.interception import function_name

# Functions of nn.Module that call forward.
_CALLERS = frozenset({"_call_impl", "_wrapped_call_impl", "_slow_forward", "inner"})

DIFFERENT_OUTPUTS = "the outputs differ"
"""The reason of a try that ran."""


class Failure(NamedTuple):
    """A failed try.

    Attributes:
        reached: How far it came: the runs that were right, and the torch functions in the next
            one.
        reason: The module and the operation where it stopped, and the error.
    """

    reached: tuple[int, float]
    reason: str


class Progress(TorchFunctionMode):
    """A context that counts torch functions and notes the one that fails.

    Attributes:
        count: How many torch functions ran.
        failed: The innermost function that raised; None if none did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.failed: Any = None

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.count += 1
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.failed = self.failed or func
            raise


def failure_by(error: Exception, progress: Progress, runs: int) -> Failure:
    """The failure of a try that raised an error.

    Args:
        error: The error.
        progress: The context around the run that raised it.
        runs: How many runs were right before.
    """
    words = [first_line(error)]
    place = _place(error)
    if progress.failed is not None and place is not None:
        words.insert(0, f"{place}, {function_name(progress.failed)}")
    elif place is not None:
        words.insert(0, place)
    return Failure((runs, progress.count), ": ".join(words))


def difference(runs: int, other: str) -> Failure:
    """The failure of a try with other outputs than the gated or the pruned network.

    Args:
        runs: How many runs were right before.
        other: The word for that network.
    """
    reason = f"{DIFFERENT_OUTPUTS} from the {other} network's"
    return Failure((runs, float("inf")), reason)


def _place(error: Exception) -> str | None:
    """The innermost module in whose forward the error arose; None if no forward ran."""
    modules = list(_modules_in_forward(error))
    if not modules:
        return None
    root, innermost = modules[0], modules[-1]
    named: Iterator[tuple[str, nn.Module]] = cast("Any", root).named_modules()
    for path, module in named:
        if module is innermost and path:
            return f"in {path!r} ({type(module).__name__})"
    return f"in the forward of {type(innermost).__name__}"


def _modules_in_forward(error: Exception) -> Iterator[nn.Module]:
    frames: Iterator[tuple[FrameType, int]] = walk_tb(error.__traceback__)
    for frame, _ in frames:
        code = frame.f_code
        if code.co_argcount and code.co_name not in _CALLERS:
            first_argument = frame.f_locals.get(code.co_varnames[0])
            if isinstance(first_argument, nn.Module):
                yield first_argument
