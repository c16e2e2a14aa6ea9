"""The mutants of the package: what cosmic-ray would change, in an order fit for samples."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

Place = tuple[int, int]
"""A line, from 1, and a column, from 0."""


class Mutant(NamedTuple):
    """One change of one file."""

    source: str
    """The file, from the folder of the package's folder."""

    line: int
    operator: str
    occurrence: int
    """Which of the operator's places in the file."""

    digest: str
    """A text that stands for what the file says."""

    @property
    def name(self) -> str:
        """A name that changes with the file."""
        return f"{self.source}:{self.line} {self.operator} {self.occurrence} {self.digest}"


def mutants_of(root: Path, source: str) -> list[Mutant]:
    """All mutants of a file, outside of annotations and of ``__all__``."""
    import cosmic_ray.plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    text = (root / source).read_text()
    digest, skipped = digest_of(text), unread_spans(text)
    nodes = list(ast_nodes(get_ast(text)))
    found: list[Mutant] = []
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments():
            continue
        places = places_of(kind(), nodes)
        for occurrence, place in enumerate(places):
            if not any(start <= place < end for start, end in skipped):
                short = name.removeprefix("core/")
                found.append(Mutant(source, place[0], short, occurrence, digest))
    return found


def places_of(operator, nodes) -> Iterator[Place]:
    """Where an operator may change a file."""
    for node in nodes:
        for start, _ in operator.mutation_positions(node):
            yield start


def text_of(root: Path, mutant: Mutant) -> str:
    """The file with the mutant's change."""
    import cosmic_ray.plugins
    from cosmic_ray.mutating import mutate_code

    operator = cosmic_ray.plugins.get_operator(f"core/{mutant.operator}")()
    text = (root / mutant.source).read_text()
    changed = mutate_code(text, operator, mutant.occurrence)
    assert changed is not None, mutant
    return changed


def digest_of(text: str) -> str:
    """Eight letters that stand for a text."""
    return sha256(text.encode()).hexdigest()[:8]


def unread_spans(text: str) -> list[tuple[Place, Place]]:
    """Where a file says what a running program does not read.

    Annotations, which stay texts, docstrings, imports from ``__future__``, and ``__all__``.
    """
    found: list[ast.AST] = []
    for node in ast.walk(ast.parse(text)):
        found += unread_parts(node)
    return [span(node) for node in found]


def unread_parts(node: ast.AST) -> list[ast.AST]:
    """The parts of a node that a running program does not read."""
    match node:
        case ast.AnnAssign(annotation=annotation):
            return [annotation]
        case ast.arg(annotation=ast.expr() as annotation):
            return [annotation]
        case ast.FunctionDef(returns=ast.expr() as annotation):
            return [annotation]
        case ast.Expr(value=ast.Constant(value=str())):
            return [node]
        case ast.ImportFrom(module="__future__"):
            return [node]
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return [node]
    return []


def span(node) -> tuple[Place, Place]:
    """Where a node starts and ends."""
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def in_order(files: Iterable[list[Mutant]], seed: int) -> list[Mutant]:
    """All mutants in an order of which every beginning is a sample stratified by file.

    A file with n mutants has one in every n-th part of the order, at a random place, in a random
    order of its own.
    """
    placed: list[tuple[float, Mutant]] = []
    for mutants in files:
        if mutants:
            chance = random.Random(f"{seed} {mutants[0].source}")
            shuffled = chance.sample(mutants, len(mutants))
            start = chance.random()
            parts = [(start + rank) / len(mutants) for rank in range(len(mutants))]
            placed += zip(parts, shuffled, strict=True)
    return [mutant for _, mutant in sorted(placed)]
