"""A device of pretence: its memory is the CPU's, and torch takes it for another device.

``L0FUNC_TEST_DEVICE=pretend pytest`` runs the suite on it, so that a machine without a GPU finds
tensors on the wrong device. As on a GPU, the backward pass runs on a thread of torch's own.
"""

from __future__ import annotations

import threading
import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

NAME = "pretend"
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")

_FACTORY_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.BackendSelect)
_CPU_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
# Operations that read a tensor's value, or take a tensor from another device.
_MIXED = {"aten::copy_", "aten::_local_scalar_dense", "aten::index", "aten::_index_put_impl_"}
_MIXED |= {"aten::_unsafe_index", "aten::index_put_", "aten::_unsafe_index_put", "aten::set_"}
_MIXED |= {"aten::_copy_from", "aten::_copy_from_and_resize"}


# Operations between two tensors that take no number for one of them.
_WITHOUT_NUMBERS = {"aten::remainder", "aten::fmod", "aten::floor_divide", "aten::maximum"}
_WITHOUT_NUMBERS |= {"aten::minimum", "aten::logical_and", "aten::logical_or"}
_WITHOUT_NUMBERS |= {"aten::copysign", "aten::atan2", "aten::xlogy"}


class _Storages:
    """For each storage on the CPU: the storage of pretence with the same memory."""

    def __init__(self) -> None:
        self.twins: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.lock = threading.Lock()

    def twin(self, own: Any) -> Any:
        with self.lock:
            found = self.twins.get(own._cdata)
            # A resized storage has other memory.
            if found is None or found.data_ptr() != own.data_ptr():
                device = torch.device(NAME, 0)
                found = torch._C._construct_storage_from_data_pointer(
                    own.data_ptr(), device, own.nbytes()
                )
                found.own = own
                self.twins[own._cdata] = found
            return found


_storages = _Storages()


class _Module:
    """What torch asks ``torch.pretend``: there is one device, and it draws from the CPU."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass


def _cloned(storage: Any, plain: Any = torch.UntypedStorage.clone) -> Any:
    # torch asks an allocator for the clone's memory, and this device has none.
    if storage.device.type != NAME:
        return plain(storage)
    return _storages.twin(storage.own.clone())


def start() -> None:
    """Register the device with torch, for the rest of the process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    torch.UntypedStorage.clone = _cloned
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(_run, "PrivateUse1")
    aten = torch.library.Library("aten", "IMPL")
    for name in ("convolution_overrideable", "convolution_backward_overrideable"):
        # These have a kernel for every backend, that raises.
        operation = getattr(torch.ops.aten, name).default
        aten.impl(name, partial(_run, operation), "PrivateUse1")
    # A registration ends with its library.
    _libraries.extend((everything, aten))


_libraries: list[torch.library.Library] = []


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation in the CPU's memory."""
    name = op._schema.name
    if name == "aten::set_":
        # It changes the tensor's place in memory, and no memory.
        return op.redispatch(_CPU_KEYS, *args, **kwargs)
    given: dict[int, tuple[Tensor, Tensor]] = {}

    def lower(value: Any) -> Any:
        if isinstance(value, Tensor):
            return _lowered(value, name, given)
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value

    cpu_args, cpu_kwargs = tree_map(lower, (args, kwargs))
    wanted = kwargs.get("device")
    stays = wanted is not None and wanted.type != NAME
    found = _called(op, name, cpu_args, cpu_kwargs)
    for cpu, t in given.values():
        if cpu.shape != t.shape:
            # The operation resized its output.
            _place(t, cpu)

    def lift(value: Any) -> Any:
        if not isinstance(value, Tensor) or stays:
            return value
        return given[id(value)][1] if id(value) in given else _lifted(value)

    return tree_map(lift, found)


class LacksOperation(Exception):
    """The CPU has no kernel for an operation that torch chose for this device."""


def is_lacking(error: BaseException) -> bool:
    """Whether an error comes from an operation, or from autocast, that this device lacks."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LacksOperation):
            return True
        if isinstance(cause, NotImplementedError) and "PrivateUse1" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _called(op: Any, name: str, args: Any, kwargs: Any) -> Any:
    if name in _WITHOUT_NUMBERS or name.startswith("aten::bitwise"):
        # torch gives a number for a tensor that came from one, and takes none itself.
        like = next(arg for arg in args if isinstance(arg, Tensor))
        args = [torch.tensor(arg, dtype=like.dtype) if type(arg) is int else arg for arg in args]
    # Without the transforms around: they have done their part.
    done = torch._C._dispatch_tls_local_exclude_set()
    alone = torch._C._ForceDispatchKeyGuard(_FACTORY_KEYS, done)
    try:
        with alone:
            return _BY_ANOTHER_NAME.get(name, op)(*args, **kwargs)
    except NotImplementedError as error:
        raise LacksOperation(name) from error


def _copied(source: Tensor, into: Tensor, non_blocking: bool = False) -> Tensor:
    return into.copy_(source, non_blocking)


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *settings: Any, **named: Any
) -> Any:
    *sizes, mask = [*settings, *named.values()]
    is_transposed, groups = sizes[3], sizes[5]
    bias = [weight.shape[1] * groups if is_transposed else weight.shape[0]]
    backward = torch.ops.aten.convolution_backward.default
    return backward(grad, x, weight, bias, *sizes, mask)


# torch asks a backend that it does not know for these; the CPU has others.
_BY_ANOTHER_NAME = {
    "aten::_copy_from": _copied,
    "aten::_efficientzerotensor": torch.ops.aten.zeros.default,
    "aten::convolution_overrideable": torch.ops.aten.convolution.default,
    "aten::convolution_backward_overrideable": _convolution_backward,
}


def _lowered(t: Tensor, name: str, given: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
    if t.device.type != NAME:
        if t.dim() and name not in _MIXED:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {name} found {NAME}:0 and "
                f"{t.device}!"
            )
        return t
    own = t.untyped_storage().own
    cpu = torch.empty(0, dtype=t.dtype, device="cpu")
    cpu.set_(own, t.storage_offset(), t.shape, t.stride())
    given[id(cpu)] = cpu, t
    return cpu


def _lifted(cpu: Tensor) -> Tensor:
    t = torch._C._acc.create_empty_tensor((0,), cpu.dtype)
    _place(t, cpu)
    return t


def _place(t: Tensor, cpu: Tensor) -> None:
    """Give a tensor of pretence another tensor's memory, sizes and strides."""
    storage = _storages.twin(cpu.untyped_storage())
    set_ = torch.ops.aten.set_.source_Storage_storage_offset
    place = cpu.storage_offset(), tuple(cpu.shape), tuple(cpu.stride())
    set_.redispatch(_CPU_KEYS, t, storage, *place)
