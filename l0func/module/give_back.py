"""The way back for what ``forward`` wrote on a clone of a module: to the module itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from l0func.module.exchange import TABLES, Exchange, tensors_in
from l0func.module.snapshot import CONTAINERS, Snapshot


class Writes:
    """Everything that a call of clones wrote on them.

    Args:
        clones: The modules of the call.
        before: Their attributes before it.
    """

    def __init__(self, clones: Sequence[nn.Module], before: Sequence[Snapshot]) -> None:
        self.clones = clones
        self.before = before
        self.names: list[list[str]] = []
        for clone, snapshot in zip(clones, before, strict=True):
            own = [name for name in snapshot.changed(clone) if name not in TABLES]
            self.names.append(own)

    def tensors(self) -> Iterator[Tensor]:
        """The tensors that are new in written attributes."""
        if not any(self.names):
            return
        old: set[int] = set()
        for snapshot in self.before:
            old.update(map(id, tensors_in(snapshot.everything())))
        for clone, names in zip(self.clones, self.names, strict=True):
            written = {name: vars(clone).get(name) for name in names}
            for tensor in tensors_in(written):
                if id(tensor) not in old:
                    old.add(id(tensor))
                    yield tensor

    def give(self, modules: Sequence[nn.Module], tensors: Mapping[int, Tensor]) -> None:
        """Write everything on these modules.

        Args:
            modules: The modules behind the clones.
            tensors: Other tensors in place of written ones, by ``id``.
        """
        if not any(self.names):
            return
        exchange = Exchange(self.clones, modules, tensors)
        for i, module in enumerate(modules):
            for name in self.names[i]:
                _give_one(name, self.clones[i], module, self.before[i], exchange)


def _give_one(
    name: str, clone: nn.Module, module: nn.Module, before: Snapshot, exchange: Exchange
) -> None:
    attributes = vars(module)
    if name not in vars(clone):
        attributes.pop(name, None)
        return
    now = vars(clone)[name]
    is_kept = now is before.values.get(name, before)
    if is_kept and type(now) in CONTAINERS and name in attributes:
        _merge(attributes[name], now, before, exchange)
    else:
        attributes[name] = exchange(now)


def _merge(real: Any, now: Any, before: Snapshot, exchange: Exchange) -> None:
    """Change a module's container as forward changed the clone's copy of it."""
    old = before.items_before(now)
    if real is now or old is None:
        return
    if isinstance(now, list):
        _merge_list(real, cast("list[Any]", now), old, before, exchange)
    elif isinstance(now, set):
        real.clear()
        real.update(map(exchange, cast("set[Any]", now)))
    else:
        _merge_dict(real, now, old, before, exchange)


def _merge_list(
    real: list[Any], now: list[Any], old: list[Any], before: Snapshot, exchange: Exchange
) -> None:
    is_longer = len(now) >= len(old)
    if is_longer and all(a is b for a, b in zip(now, old, strict=False)):
        for mine, item in zip(real, old, strict=False):
            _merge_inside(mine, item, before, exchange)
        # Another thread may have appended to the module's list in between.
        real.extend(map(exchange, now[len(old) :]))
        return
    mine_by_id = {id(item): mine for mine, item in zip(real, old, strict=False)}
    real[:] = [mine_by_id.get(id(item), exchange(item)) for item in now]


def _merge_dict(
    real: dict[Any, Any],
    now: dict[Any, Any],
    old: dict[Any, Any],
    before: Snapshot,
    exchange: Exchange,
) -> None:
    for key in old.keys() - now.keys():
        real.pop(key, None)
    for key, item in now.items():
        if key in real and item is old.get(key, before):
            _merge_inside(real[key], item, before, exchange)
        else:
            real[key] = exchange(item)


def _merge_inside(real: Any, now: Any, before: Snapshot, exchange: Exchange) -> None:
    if type(now) in CONTAINERS and type(real) is type(now):
        _merge(real, now, before, exchange)
