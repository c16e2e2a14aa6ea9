"""Every test asserts something: itself, or in a function of the tests that it names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
OF_PYTEST = {"raises", "warns", "fail", "deprecated_call"}
OF_OTHERS = {"assert_close", "assert_allclose", "gradcheck", "gradgradcheck", "opcheck"}
# A warning that is an error fails the test.
CHECKS = OF_PYTEST | OF_OTHERS | {"simplefilter", "filterwarnings"}


class Function(NamedTuple):
    name: str
    asserts: bool
    names: set[str]
    """What it calls or passes on."""


class File(NamedTuple):
    functions: list[Function]
    imports: set[str]
    """Other files of the tests, by their stems."""


def function_of(name: str, body: ast.AST) -> Function:
    nodes = [*ast.walk(body)]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    asserts = any(isinstance(node, ast.Assert) for node in nodes) or bool(names & CHECKS)
    return Function(name, asserts, names)


def functions_of(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            # Without its decorators, which may name a filter of warnings.
            yield function_of(node.name, ast.Module(node.body, []))
        # close = partial(assert_close, rtol=...)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield function_of(node.targets[0].id, node.value)


def imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def file_of(text: str) -> File:
    tree = ast.parse(text)
    return File([*functions_of(tree)], {*imports_of(tree)})


def asserting_functions(files: dict[str, File]) -> dict[str, set[str]]:
    """For each file the functions that reach an assertion in it, or in a file that it imports."""
    found = {stem: {f.name for f in file.functions if f.asserts} for stem, file in files.items()}
    size = -1
    while size != sum(map(len, found.values())):
        size = sum(map(len, found.values()))
        for stem, file in files.items():
            known = set().union(*(found[own] for own in {stem, *file.imports} & {*files}))
            found[stem] |= {f.name for f in file.functions if f.names & known}
    return found


def silent_tests(sources: dict[str, str]) -> list[str]:
    """The tests, by file and name, that reach no assertion."""
    files = {stem: file_of(text) for stem, text in sources.items()}
    asserting = asserting_functions(files)
    tests = [(stem, f.name) for stem, file in files.items() for f in file.functions]
    return [
        f"{stem}::{name}"
        for stem, name in tests
        if name.startswith("test_") and name not in asserting[stem]
    ]


def test_every_test_reaches_an_assertion():
    assert silent_tests({path.stem: path.read_text() for path in TESTS.rglob("*.py")}) == []


def test_a_test_without_an_assertion_is_found():
    helpers = "def check(): assert 1\ndef run(): 1"
    own = "def check(): 1\ndef test_c(): check()"
    text = "from helpers import check, run\ndef test_a(): check()\ndef test_b(): run()"
    found = silent_tests({"helpers": helpers, "test_x": text, "test_y": own})
    assert found == ["test_x::test_b", "test_y::test_c"]
