"""A sample of many cases for every run; the others wait for ``pytest -m slow``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any], is_kept: Callable[[int, Any], bool]) -> list[Any]:
    """The cases as parameters; those that are not kept have the mark ``slow``.

    Args:
        cases: Values of one argument, or ``pytest.param``s of one or several.
        is_kept: Says from a case's number and its first value whether every run has it.
    """
    params = [_param(case) for case in cases]
    kept = [is_kept(number, param.values[0]) for number, param in enumerate(params)]
    assert any(kept), "a sample without a case tests nothing"
    return [p if keep else _slow(p) for p, keep in zip(params, kept, strict=True)]


def one_in(n: int) -> Callable[[int, Any], bool]:
    """Keeps the first case and every ``n``-th after it."""
    return lambda number, case: number % n == 0


def among(*names: str) -> Callable[[int, Any], bool]:
    """Keeps the cases whose text is one of ``names``."""
    return lambda number, case: str(case) in names


def _param(case: Any) -> Any:
    return case if hasattr(case, "marks") else pytest.param(case)


def _slow(param: Any) -> Any:
    return pytest.param(*param.values, marks=[*param.marks, pytest.mark.slow], id=param.id)
