"""Seeded mutations of JSON documents: the ways in which a file may be wrong."""

from __future__ import annotations

import copy
import random
from typing import Any

JUNK: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    2**31,
    2**63,
    -(2**63),
    0.0,
    0.5,
    -1.5,
    1.0,
    1e308,
    1e-320,
    float("nan"),
    float("inf"),
    "",
    "x",
    "__class__",
    "float32",
    "axis",
    "HardConcrete",
    "\ud800",
    "n" * 500,
    [],
    {},
    [0],
    [[0]],
    [1, 2, 3],
    ["a", "b"],
    [10**6] * 4,
    {"a": 1},
    {"rule": "axis", "dim": 0},
)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every container in a document, with each of its keys."""
    keys = list(document) if isinstance(document, dict) else range(len(document))
    found = [(document, key) for key in keys]
    for key in keys:
        if isinstance(document[key], dict | list):
            found += places(document[key])
    return found


def mutated(document: Any, rng: random.Random) -> Any:
    """The document with one to three changes."""
    changed = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        sites = places(changed)
        if not sites:
            break
        rng.choice(MUTATIONS)(*rng.choice(sites), sites, rng)
    return changed


def replace(container: Any, key: Any, sites: Any, rng: random.Random) -> None:
    container[key] = copy.deepcopy(rng.choice(JUNK))


def remove(container: Any, key: Any, sites: Any, rng: random.Random) -> None:
    del container[key]


def exchange(container: Any, key: Any, sites: Any, rng: random.Random) -> None:
    other, place = rng.choice(sites)
    container[key] = copy.deepcopy(other[place])


def repeat(container: Any, key: Any, sites: Any, rng: random.Random) -> None:
    if isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    else:
        container[f"{key}2"] = container[key]


def nudge(container: Any, key: Any, sites: Any, rng: random.Random) -> None:
    value = container[key]
    if isinstance(value, bool):
        container[key] = not value
    elif isinstance(value, int | float):
        container[key] = rng.choice([value + 1, -value, value * 10**9, float(value), str(value)])
    elif isinstance(value, str):
        container[key] = value[1:] + value[:1]


def wrap(container: Any, key: Any, sites: Any, rng: random.Random) -> None:
    container[key] = rng.choice([[container[key]], {"rule": container[key]}])


MUTATIONS = (replace, replace, remove, exchange, repeat, nudge, nudge, wrap)
