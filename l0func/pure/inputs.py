"""Example inputs for a module's forward: positional and keyword inputs, read by one rule.

Tracing, compaction and costs run a module on examples. They take the inputs that it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from l0func.internal import names
from l0func.internal.outputs import copied
from l0func.pure.functional import PureModule
from l0func.pure.part import Part
from l0func.pure.widened import Widened

_FORMS = "Give a tensor for one input, a tuple for several, or a dict of keyword inputs"
_CALL_FORMS = "Give several inputs as *inputs, and keyword inputs as **inputs"


class Inputs(NamedTuple):
    """The inputs for one call of a module.

    Attributes:
        args: Positional inputs.
        kwargs: Keyword inputs.
        advice: What to write instead if forward fails on these; empty if nothing else is likely.
        widens: Whether casts to narrow float types are left out, as :mod:`l0func.pure.widened`
            does.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    advice: str = ""
    widens: bool = False

    def call(self, fn: PureModule, params: Any, buffers: Any) -> Any:
        """The output of ``fn(params, buffers, *args, **kwargs)`` on copies of the inputs.

        A module may write into its inputs: a tensor in place, or a cache that grows. The next call
        then still sees the same inputs.
        """
        args, kwargs, *_ = self.copied()
        with self.explained(), self.casts():
            return fn.with_buffers(params, buffers, *args, **kwargs)[0]

    def copied(self) -> Inputs:
        """The same inputs in new tensors, containers and objects."""
        args, kwargs = copied(_detached_copy, (self.args, self.kwargs))
        return Inputs(args, kwargs, self.advice, self.widens)

    def widened(self, fn: PureModule, params: Any, buffers: Any) -> Inputs:
        """These inputs with ``widens`` set, if forward asks for narrow types and runs without."""
        args, kwargs, *_ = self.copied()
        try:
            with Widened() as mode:
                fn.with_buffers(params, buffers, *args, **kwargs)
        except Exception:
            # A forward of unknown code may raise anything when its types change.
            return self
        return self._replace(widens=mode.has_changed)

    def casts(self) -> AbstractContextManager[Any]:
        """A context for the module's forward: it leaves out casts to narrow types if asked to."""
        return Widened() if self.widens else nullcontext()

    @contextmanager
    def explained(self) -> Generator[None, None, None]:
        """A context for the module's forward: it adds the advice to forward's own errors."""
        try:
            yield
        except (TypeError, AttributeError, LookupError, RuntimeError) as error:
            if not self.advice:
                raise
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            raise TypeError(f"Forward fails on the examples ({cause}). {self.advice}") from error


def _detached_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def read_examples(fn: PureModule, examples: Any) -> Inputs:
    """Example inputs as the call that they stand for.

    A tuple holds several inputs. A dict, or another mapping, holds keyword inputs if forward has
    arguments of these names. Everything else is forward's only input, and so is a mapping with
    other keys.

    Args:
        fn: The function that they are for.
        examples: A tensor, a tuple, a mapping or any other single input.

    Raises:
        TypeError: Forward does not take these inputs; or it takes a mapping in both ways.
    """
    only: tuple[Any, ...] = (examples,)
    if isinstance(examples, tuple):
        return fitting(fn, cast("tuple[Any, ...]", examples), {})
    if isinstance(examples, Mapping):
        mapping = cast("Mapping[Any, Any]", examples)
        if _is_keywords(fn, mapping):
            return fitting(fn, (), mapping)._replace(advice=_advice_on_lists(mapping))
    return fitting(fn, only, {})._replace(advice=_advice_on_input(fn, examples, _FORMS))


def _advice_on_input(fn: PureModule, only: Any, forms: str) -> str:
    """What to write instead if forward fails on its only positional input."""
    if type(only).__module__ == "numpy":
        return "It got a numpy array: pass a tensor, torch.as_tensor(array)."
    if not isinstance(only, Mapping | list | tuple):
        return ""
    kind: str = type(cast("Any", only)).__name__
    signature = _signature(fn)
    unknown = ""
    if isinstance(only, Mapping) and signature is not None:
        unknown = _unknown_name(signature, cast("Mapping[Any, Any]", only))
    return f"It got the {kind} as one input: forward takes {signature}{unknown}. {forms}."


def _advice_on_lists(inputs: Mapping[Any, Any]) -> str:
    """What to write instead if forward fails on a list of numbers, as tokenizers return them."""
    for name, value in inputs.items():
        if isinstance(value, list) and value and not _has_tensors(cast("list[Any]", value)):
            return (
                f"It got a list of numbers as {name}: pass a tensor, torch.tensor({name}). A "
                "tokenizer returns tensors with return_tensors='pt'."
            )
    return ""


def _has_tensors(values: list[Any]) -> bool:
    return any(isinstance(value, Tensor) for value in values)


def _unknown_name(signature: inspect.Signature, mapping: Mapping[Any, Any]) -> str:
    """The first key that is no argument, if other keys are; else empty."""
    known = list(signature.parameters)
    unknown = [name for name in map(str, mapping) if name not in known]
    if not unknown or len(unknown) == len(mapping):
        return ""
    return f", and has no {unknown[0]!r}{names.closest(unknown[0], known)}"


def fitting(fn: PureModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
    """The inputs of one call, checked against forward's arguments.

    Raises:
        TypeError: Forward does not take them.
    """
    signature = _signature(fn, follow_wrapped=False)
    if signature is not None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise _misfit(fn, signature, Inputs(args, dict(kwargs)), error) from None
    advice = _advice_on_input(fn, args[0], _CALL_FORMS) if len(args) == 1 else ""
    return Inputs(args, dict(kwargs), advice)


def _root(fn: PureModule) -> Part:
    _, part = next(fn.parts())
    return part


def _signature(fn: PureModule, follow_wrapped: bool = True) -> inspect.Signature | None:
    """The arguments of forward without self; None if they cannot be known.

    Args:
        fn: The function.
        follow_wrapped: Whether a decorated forward has the arguments of the function that it
            wraps. They are names to go by, and the decorator may still take others.
    """
    root = _root(fn)
    attributes = root.attributes()
    changes_inputs = attributes.get("_forward_pre_hooks")
    if changes_inputs or root.kind.__call__ is not nn.Module.__call__:
        return None
    forward = attributes.get("forward")
    if forward is None:
        own = inspect.signature(root.kind.forward, follow_wrapped=follow_wrapped)
        return _without_self(own)
    if inspect.isfunction(forward):
        return inspect.signature(forward, follow_wrapped=follow_wrapped)
    return None


def _without_self(signature: inspect.Signature) -> inspect.Signature:
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind is not parameters[0].VAR_POSITIONAL:
        parameters = parameters[1:]
    bare = [p.replace(annotation=p.empty) for p in parameters]
    return inspect.Signature(bare)


def _is_keywords(fn: PureModule, mapping: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds keyword inputs, and is not itself the only input."""
    signature = _signature(fn)
    if signature is None or not all(isinstance(key, str) for key in mapping):
        return False
    if not _binds(signature, (), mapping):
        return False
    is_named = any(_takes(signature, key) for key in mapping)
    if is_named or not _binds(signature, (mapping,), {}):
        return True
    raise TypeError(
        f"The forward of {_root(fn).kind.__name__} takes {signature}: the mapping with the keys "
        f"{list(mapping)} may be its only input, or hold its keyword inputs. For one input write "
        "a tuple, ({...},). For keyword inputs give forward arguments of these names; a call such "
        "as unit_groups(net, **inputs) takes them as they are."
    )


def _takes(signature: inspect.Signature, name: str) -> bool:
    parameter = signature.parameters.get(name)
    if parameter is None:
        return False
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _binds(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _misfit(
    fn: PureModule, signature: inspect.Signature, inputs: Inputs, error: TypeError
) -> TypeError:
    problem = str(error)
    known = list(signature.parameters)
    unknown = [name for name in inputs.kwargs if name not in known]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if unknown and not takes_any:
        # Python would name the missing argument first, and not the name that stands for it.
        problem = f"it has no {unknown[0]!r}{names.closest(unknown[0], known)}"
    given = [type(value).__name__ for value in inputs.args]
    given += [f"{name}={type(value).__name__}" for name, value in inputs.kwargs.items()]
    return TypeError(
        f"The forward of {_root(fn).kind.__name__} takes {signature}, and the inputs "
        f"({', '.join(given)}) do not fit: {problem}. {_FORMS}."
    )
