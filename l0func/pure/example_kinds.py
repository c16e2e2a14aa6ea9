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
        ValueError: An example is on a device without any of these tensors, though integers on the
            CPU are refused only if forward fails. Or forward fails, and an example has another
            floating-point type than all of the tensors.
    """
    elsewhere = [(name, t) for name, t in _named(inputs) if _is_elsewhere(t, tensors)]
    for name, example in elsewhere:
        if not _forward_may_read(example, tensors):
            raise ValueError(_advice_on_devices(name, example, tensors))
    try:
        yield
    except RuntimeError as error:
        advice = _advice_on_types(inputs, tensors)
        if elsewhere:
            advice = _advice_on_devices(*elsewhere[0], tensors)
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


def _is_elsewhere(example: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    known = {tensor.device for tensor in tensors.values()}
    return bool(known) and example.dim() > 0 and example.device not in known


def _forward_may_read(example: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are integers on the CPU, such as the lengths of rows beside a card."""
    has_values = not any(tensor.is_meta for tensor in tensors.values())
    is_float = example.is_floating_point() or example.is_complex()
    return has_values and not is_float and example.device.type == "cpu"


def _advice_on_devices(name: str, example: Tensor, tensors: Mapping[str, Tensor]) -> str:
    path, tensor = next(iter(tensors.items()))
    return (
        f"The example {name} is on {example.device}, and the module's {path!r} is on "
        f"{tensor.device}. Move the examples: x.to({str(tensor.device)!r})."
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
