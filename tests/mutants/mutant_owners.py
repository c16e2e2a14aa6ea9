"""The files that are mutated, and the test files that own each."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "l0func"

_WINGS = ("distributions", "costs", "gates", "spec", "tracing", "engine/ops")
_FILES = ("random.py", "kernels/philox.py")

SOURCES = [f"l0func/{name}" for name in _FILES] + [
    f"l0func/{path.relative_to(PACKAGE)}"
    for wing in _WINGS
    for path in sorted((PACKAGE / wing).rglob("*.py"))
    if path.name != "__init__.py"
]

# The smallest set for each: a file is read for what its own tests say, not for what runs it.
OWNERS = {
    "random": "test_random",
    "kernels/philox": "kernels/test_philox",
}


def owners_of(source: str) -> list[str]:
    """The test files that own a source file, and the examples in its docstrings."""
    name = source.removeprefix("l0func/").removesuffix(".py")
    return [f"tests/{test}.py" for test in OWNERS[name].split()] + [source]
