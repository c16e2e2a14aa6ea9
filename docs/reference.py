"""Writes the reference: a page for every public name, and a page with all of them."""

from __future__ import annotations

import inspect
from pathlib import Path

from docs.names import SECTIONS, docstring, is_data, value_of

_TITLE = """# Reference

Every public name has a page with an example that runs. Write `import l0func as l0`, and then a
name of this page after `l0.`: `l0.gated`, `l0.random.key`.
"""


def write_pages(source: str | Path) -> None:
    """Write ``reference/index.md``, and a page for each name into ``reference/``."""
    folder = Path(source) / "reference"
    folder.mkdir(exist_ok=True)
    pages = {f"{name}.rst": _page(name) for name in " ".join(SECTIONS.values()).split()}
    pages["index.md"] = _index()
    for old in set(folder.iterdir()) - {folder / file for file in pages}:
        old.unlink()
    for file, text in pages.items():
        _write_if_new(folder / file, text)


def _write_if_new(path: Path, text: str) -> None:
    """A page that stays the same keeps its time, so that Sphinx does not read it again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _index() -> str:
    parts = [_TITLE]
    for section, names in SECTIONS.items():
        parts.append(f"## {section}\n\n| name | meaning |\n|---|---|\n{_rows(names.split())}\n")
    entries = "\n".join(" ".join(SECTIONS.values()).split())
    parts.append(f"```{{toctree}}\n:hidden:\n\n{entries}\n```\n")
    return "\n".join(parts)


def _rows(names: list[str]) -> str:
    return "\n".join(f"| [`{name}`]({name}.rst) | {_first_line(name)} |" for name in names)


def _first_line(name: str) -> str:
    line = docstring(name).strip().partition("\n\n")[0].replace("\n", " ")
    return line.replace("``", "`").replace("|", "\\|")


def _page(name: str) -> str:
    title = f"{name}\n{'=' * len(name)}\n"
    if is_data(name):
        text = "\n".join(f"   {line}" for line in docstring(name).splitlines())
        return f"{title}\n.. py:data:: l0func.{name}\n\n{text}\n"
    if inspect.isclass(value_of(name)):
        return f"{title}\n.. autoclass:: l0func.{name}\n   :members:\n   :show-inheritance:\n"
    return f"{title}\n.. autofunction:: l0func.{name}\n"
