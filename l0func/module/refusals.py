"""Refusals of tools that an ``L0Module`` cannot work with, and the tools to use instead."""

from __future__ import annotations

from typing import Any

from torch.fx import Proxy

from l0func.internal.context import compiling


def no_scripting() -> ValueError:
    """The error for ``torch.jit.script``."""
    return ValueError(
        "torch.jit.script cannot compile an L0Module: its gates are drawn by Python code. Script "
        "net.compacted(), which is a plain module, or use torch.export or torch.jit.trace on "
        "net.eval()."
    )


def check_not_symbolic(inputs: Any, kwargs: Any) -> None:
    """Refuse ``torch.fx.symbolic_trace``, whose proxies stand for inputs.

    Args:
        inputs: The inputs of forward.
        kwargs: Its keyword inputs.

    Raises:
        ValueError: There is a proxy among them, or in their place.
    """
    if compiling():
        return
    # Behind a root's *inputs and **kwargs stand two proxies.
    if isinstance(inputs, Proxy) or any(
        isinstance(value, Proxy) for value in (*inputs, *kwargs.values())
    ):
        raise ValueError(
            "torch.fx.symbolic_trace cannot trace an L0Module: its gates are drawn by Python "
            "code. Trace net.compacted(), which is a plain module, or use torch.export on "
            "net.eval()."
        )


def no_data_parallel() -> RuntimeError:
    """The error for ``nn.DataParallel``."""
    return RuntimeError(
        "nn.DataParallel copies a module at every step, and an L0Module's copies would have no "
        "parameters. Use nn.parallel.DistributedDataParallel: every process draws masks of its "
        "own."
    )
