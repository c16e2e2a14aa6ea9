"""The groups that ``unit_groups`` found, and how to move them to a module inside."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from l0func.spec.plan import Group


class UnitGroups(dict[str, Group]):
    """``{name: group}``, for ``gate_spec(params, groups=…, buffers=…)``.

    Attributes:
        sizes: The number of units in each group.
        refused: For units that cannot be removed: the reason, by the parameter that makes them.
        normed: The groups with an RMSNorm over their units. Their gates multiply the slices that
            make the units, not those that read them.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> groups = l0.unit_groups(net, torch.ones(2, 4))
        >>> groups.sizes
        {'0': 3}
        >>> groups.refused
        {'2.weight': 'they are an output of the module'}
    """

    def __init__(
        self,
        groups: Mapping[str, Group],
        sizes: Mapping[str, int],
        refused: Mapping[str, str],
        normed: Collection[str] = (),
    ) -> None:
        super().__init__(groups)
        self.sizes = {name: sizes[name] for name in groups}
        self.refused = dict(refused)
        self.normed = frozenset(normed)

    def under(self, prefix: str) -> UnitGroups:
        """The groups for a module inside the one on which they were found.

        Groups that lie wholly outside of it are left out.

        Args:
            prefix: The inner module's path, such as ``"model."``.

        Returns:
            Those groups that lie wholly under the prefix, without it in their names, paths and
            attributes; and the refusals there.

        Raises:
            ValueError: No group lies under the prefix; or a group lies there in part: its units
                cannot go without a change outside.
        """
        prefix = f"{prefix.removesuffix('.')}." if prefix else ""

        def inside(path: str) -> str:
            return path.removeprefix(prefix)

        names = {name: inside(name) for name in self._wholly_under(prefix)}
        groups = {new: self[name].renamed(inside) for name, new in names.items()}
        sizes = {new: self.sizes[name] for name, new in names.items()}
        normed = {new for name, new in names.items() if name in self.normed}
        refused: dict[str, str] = {}
        for path, reason in self.refused.items():
            if path.startswith(prefix):
                refused[inside(path)] = reason
        return UnitGroups(groups, sizes, refused, normed)

    def _wholly_under(self, prefix: str) -> list[str]:
        """The names of the groups there.

        Raises:
            ValueError: There is none, or one lies there in part.
        """
        whole: list[str] = []
        for name, group in self.items():
            outside = [path for path in group.paths() if not path.startswith(prefix)]
            if not outside:
                whole.append(name)
            elif len(outside) < len(group.paths()):
                raise ValueError(
                    f"{_quoted(self._partly_under(prefix))} lie under {prefix!r} in part only: "
                    f"{name!r} also has {_quoted(outside[:3])}. Without its units the rest of the "
                    f"network would not fit. Leave such groups out first: del groups[{name!r}]."
                )
        if not whole:
            raise ValueError(
                f"No group lies under {prefix!r}; the groups are {_quoted(list(self)) or 'none'}. "
                "Give the path of the module inside, such as 'model.'."
            )
        return whole

    def _partly_under(self, prefix: str) -> list[str]:
        found: list[str] = []
        for name, group in self.items():
            under = [path.startswith(prefix) for path in group.paths()]
            if any(under) and not all(under):
                found.append(name)
        return found

    def __repr__(self) -> str:
        units = sum(self.sizes.values())
        groups = "1 group" if len(self) == 1 else f"{len(self)} groups"
        lines = [f"UnitGroups: {units} units in {groups}"]
        for name, size in self.sizes.items():
            lines.append(f"  {name}: {size} units")
        for name, reason in self.refused.items():
            lines.append(f"  stays {name}: {reason}")
        return "\n".join(lines)


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names))
