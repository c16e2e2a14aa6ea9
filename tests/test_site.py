"""The site of docs/: a fault in a page or a public name fails its build."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import l0func

pytest.importorskip("sphinx", reason="the docs extra is not installed")
pytest.importorskip("myst_nb", reason="the docs extra is not installed")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

names = pytest.importorskip("docs.names", reason="the docs extra is not installed")

CELL = """---
file_format: mystnb
kernelspec:
  name: python3
---

# A page

```{{code-cell}} python
{code}
```
"""
SETTINGS = """
from docs.conf import *
from docs.conf import extensions as _all
extensions = [name for name in _all if name != "sphinx_llm.txt"]
nb_execution_mode = "force"
html_static_path = []


def setup(app):
    pass
"""


FAULTS = {
    "page": ("# A page\n\n[a link](no_such_page.md)\n", "no_such_page"),
    "heading": ("# A page\n\n[a link](#no-such-heading)\n", "no-such-heading"),
    "name": ("# A page\n\n```{eval-rst}\n:func:`l0func.no_such_name`\n```\n", "no_such_name"),
    "picture": ("# A page\n\n![a picture](no_such_picture.png)\n", "no_such_picture"),
    "stderr": (CELL.format(code="import sys\nsys.stderr.write('a word')"), "stderr"),
    "warning": (CELL.format(code="import warnings\nwarnings.warn('careful')"), "stderr"),
}
"""Faulty pages, and what the build says of each."""


def built(folder: Path, pages: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A site of these pages, built with the settings of docs/ and with warnings as errors."""
    (folder / "conf.py").write_text(SETTINGS)
    listed = "\n".join(pages)
    (folder / "index.md").write_text(f"# Pages\n\n```{{toctree}}\n{listed}\n```\n")
    for name, page in pages.items():
        (folder / f"{name}.md").write_text(page)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, ".", "built"], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_a_sound_page_builds(tmp_path):
    result = built(tmp_path, {"sound": CELL.format(code="print(6 * 7)")})
    assert result.returncode == 0, result.stderr
    assert "42" in (tmp_path / "built" / "sound.html").read_text()


def test_a_fault_in_a_page_fails_the_build_and_is_named_with_the_page(tmp_path):
    result = built(tmp_path, {name: page for name, (page, _) in FAULTS.items()})
    assert result.returncode != 0
    for name, (_, message) in FAULTS.items():
        of_page = [line for line in result.stderr.splitlines() if f"{name}.md" in line]
        assert any(message in line for line in of_page), (name, result.stderr)


def test_a_cell_that_raises_fails_the_build(tmp_path):
    page = CELL.format(code="raise RuntimeError('this cell does not run')")
    result = built(tmp_path, {"raising": page})
    assert result.returncode != 0
    assert "ExecutionError" in result.stderr


def test_every_public_name_has_an_example_and_a_place_in_the_reference():
    assert list(names.faults()) == []


@pytest.mark.parametrize(
    ("text", "fault"), [(None, "has no docstring"), ("A function.", "has no example")]
)
def test_a_public_name_without_docstring_or_example_is_a_fault(text, fault, monkeypatch):
    def new():
        pass

    new.__doc__ = text
    monkeypatch.setattr(l0func, "new", new, raising=False)
    monkeypatch.setattr(l0func, "__all__", [*l0func.__all__, "new"])
    found = list(names.faults())
    assert any("l0func.new is public, and no section" in line for line in found)
    assert any(f"l0func.new {fault}" in line for line in found)


@pytest.mark.parametrize(
    "example", ["1 + 1\n3", "import sys; _ = sys.stderr.write('a word')", "no_such_name"]
)
def test_an_example_that_fails_or_writes_to_stderr_is_a_fault(example, monkeypatch):
    def new():
        pass

    new.__doc__ = f"A function.\n\n>>> {example}\n"
    monkeypatch.setattr(l0func, "new", new, raising=False)
    monkeypatch.setattr(names, "public_names", lambda: {"new"})
    (fault,) = names.failed_examples()
    assert fault.startswith("l0func.new:")
