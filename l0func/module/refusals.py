"""Refusals of tools that an ``L0Module`` cannot work with, and the tools to use instead."""

from __future__ import annotations


def no_scripting() -> ValueError:
    """The error for ``torch.jit.script``."""
    return ValueError(
        "torch.jit.script cannot compile an L0Module: its gates are drawn by Python code. Script "
        "net.compacted(), which is a plain module, or use torch.export or torch.jit.trace on "
        "net.eval()."
    )


def no_data_parallel() -> RuntimeError:
    """The error for ``nn.DataParallel``."""
    return RuntimeError(
        "nn.DataParallel copies a module at every step, and an L0Module's copies would have no "
        "parameters. Use nn.parallel.DistributedDataParallel: every process draws masks of its "
        "own."
    )
