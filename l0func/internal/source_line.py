"""The line in a user's source that called the library, for error messages."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from l0func.internal.context import compiling

# With the separator: torchvision, and a user's l0func_nets, are other folders.
TORCH_FOLDER = str(Path(torch.__file__).parent) + os.sep
OWN_FOLDER = str(Path(__file__).parent.parent) + os.sep


def source_line(error: BaseException, /) -> str:
    """The innermost line outside torch and this package where an error passed.

    Args:
        error: An error that was raised and caught.

    Returns:
        Text such as `` (net.py:12, in forward: y = f(x))``, or an empty text without such a line.
    """
    # The first frame caught the error.
    return _innermost(traceback.extract_tb(error.__traceback__)[1:])


def calling_line() -> str:
    """The innermost line outside torch and this package that is running now, as a text.

    It is empty inside a compiler, which cannot trace the search.
    """
    if compiling():
        return ""
    return _innermost(traceback.extract_stack())


def _innermost(frames: Sequence[traceback.FrameSummary]) -> str:
    own = [frame for frame in frames if not frame.filename.startswith((TORCH_FOLDER, OWN_FOLDER))]
    if not own:
        return ""
    frame = own[-1]
    code = f": {frame.line}" if frame.line else ""
    return f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name}{code})"
