"""The settings of minilm.py, and how JSON changes some of them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Settings:
    """The settings of a run. Every method takes as many steps as there are here."""

    targets: tuple[float, ...] = (0.75, 0.5)
    gates_steps: tuple[int, ...] = (80, 140)
    steps: tuple[int, ...] = (120, 440)
    """Steps without gates, after those with gates."""
    batch: int = 64
    lr: float = 4e-4
    gated_lr: float = 1e-4
    gates_lr: float = 0.15
    keep: bool = True
    """Whether the weights trained beside the gates stay; else those before are fitted again."""
    warmup: int = 20
    centre: float = 3.0
    spread: float = 1.5
    fitted: int = 250
    """Sentences for the least-squares fit."""

    def __post_init__(self) -> None:
        if not len(self.targets) == len(self.gates_steps) == len(self.steps):
            raise ValueError(
                "targets, gates_steps and steps have a number for each target; got "
                f"{self.targets}, {self.gates_steps} and {self.steps}."
            )
        bounds = 1.0, *self.targets, 0.0
        if sorted(set(bounds), reverse=True) != list(bounds):
            raise ValueError(f"targets fall, from below 1 to above 0; got {self.targets}.")


QUICK = Settings(targets=(0.75,), gates_steps=(2,), steps=(2,), batch=16, fitted=24)


def chosen(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Settings:
    """The settings of a run; the parser refuses ``--settings`` that no run can use."""
    try:
        settings = changed(QUICK if options.quick else Settings(), options.settings)
    except ValueError as error:
        parser.error(f"argument --settings: {error}")
    if settings not in (QUICK, Settings()) and not options.quick:
        if options.folder == parser.get_default("folder"):
            parser.error("argument --settings: runs of other settings need their own --folder")
    return settings


def changed(settings: Settings, text: str) -> Settings:
    """The settings with those that a JSON object names in place of their own."""
    others = json.loads(text)
    usual = asdict(settings)
    if not isinstance(others, dict) or not others.keys() <= usual.keys():
        raise ValueError(f"a JSON object has some of the names {', '.join(usual)}; got {text}.")
    for name, value in others.items():
        if not is_like(value, usual[name]):
            raise ValueError(f"{name} is written like {json.dumps(usual[name])}; got {value!r}.")
    return replace(settings, **others)


def is_like(value: Any, usual: Any) -> bool:
    """Whether a value can stand for the usual one: a number is positive, a list has numbers."""
    if isinstance(usual, tuple):
        return isinstance(value, list) and bool(value) and all(is_like(v, usual[0]) for v in value)
    if isinstance(usual, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(usual, bool)
    kinds = (int, float) if isinstance(usual, float) else int
    return isinstance(value, kinds) and 0 < value < float("inf")
