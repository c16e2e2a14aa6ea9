"""Examples on another device, or of another type, than the module's tensors."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from l0func.internal.outputs import place_of, visible_leaves
from l0func.pure.inputs import Inputs


@contextmanager
def explained_kinds(inputs: Inputs, tensors: Mapping[str, Tensor]) -> Generator[None, None, None]:
    """A context for forward on examples: it names the example that does not suit the module.

    Args:
        inputs: The examples.
        tensors: The module's parameters and buffers, by path.

    Raises:
        ValueError: An example is on a device without any of these tensors; or forward fails, and
            an example has another floating-point type than all of them.
    """
    _check_devices(inputs, tensors)
    try:
        yield
    except RuntimeError as error:
        advice = _advice_on_types(inputs, tensors)
        if not advice:
            raise
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"Forward fails on the examples ({cause}). {advice}") from error


def _named(inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    """The tensors among examples, with their places."""
    numbered = {f"inputs[{i}]": value for i, value in enumerate(inputs.args)}
    for label, value in (numbered | inputs.kwargs).items():
        for trail, leaf in visible_leaves(value):
            if isinstance(leaf, Tensor):
                yield place_of(label, trail), leaf


def _check_devices(inputs: Inputs, tensors: Mapping[str, Tensor]) -> None:
    known = {tensor.device for tensor in tensors.values()}
    for name, tensor in _named(inputs):
        if known and tensor.dim() and tensor.device not in known:
            path = next(iter(tensors))
            raise ValueError(
                f"The example {name} is on {tensor.device}, and the module's {path!r} is on "
                f"{tensors[path].device}. Move the examples: x.to({str(tensors[path].device)!r})."
            )


def _advice_on_types(inputs: Inputs, tensors: Mapping[str, Tensor]) -> str:
    floats = [path for path, tensor in tensors.items() if tensor.is_floating_point()]
    known = {tensors[path].dtype for path in floats}
    for name, tensor in _named(inputs):
        if known and tensor.is_floating_point() and tensor.dtype not in known:
            dtype = tensors[floats[0]].dtype
            return (
                f"The example {name} is {tensor.dtype}, and the module's {floats[0]!r} is "
                f"{dtype}. Convert the examples: x.to({dtype})."
            )
    return ""
