"""The documents name what is there, and their pictures are those that the script draws."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest
from test_house import MAY_IMPORT

import l0func

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.glob("*.md")]
FOLDERS = ("*.md", "docs/*.md", "docs/[!_]*/*.md", "tests/*/*.md")
TEXTS = [page for folder in FOLDERS for page in ROOT.glob(folder)]


def test_the_pictures_are_those_that_the_script_draws():
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    assert set(pictures.PICTURES) == {path.name for path in DOCS.glob("*.svg")}
    for name, drawn in pictures.PICTURES.items():
        assert (DOCS / name).read_text() == drawn()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_architecture_pages_table_is_the_one_that_is_tested():
    rows = re.findall(
        r"^\| `(\w+)/?` \|[^|]*\| ([^|]*) \|$", (DOCS / "architecture.md").read_text(), re.M
    )
    shown = {wing: set(re.findall(r"\w+", allowed)) for wing, allowed in rows}
    shown["internal"], shown["smaller"] = set(), set()
    assert shown == {wing: set(allowed.split()) for wing, allowed in MAY_IMPORT.items()}


def test_every_promise_is_held_by_a_test_that_is_there():
    text = (DOCS / "promises.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    promises = [row for row in rows if not row.startswith("| kind ")]
    assert len(promises) > 30
    for row in promises:
        tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert tests, row
        for path, name in tests:
            assert f"def {name or 'test_'}" in (ROOT / path).read_text(), (path, name)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_table_begins_with_its_head(page):
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text() + "\n", re.M):
        assert re.match(r"\|.*\n\|[-: |]+\n", table), table


def test_every_module_that_the_architecture_page_names_is_there():
    text = (DOCS / "architecture.md").read_text()
    for name in re.findall(r"`((?:\w+/)+\w+)`", text):
        assert any((ROOT / "l0func" / f"{name}{ending}").exists() for ending in (".py", "")), name


def test_new_import_paths_in_the_changelog_are_there():
    for line in (ROOT / "CHANGELOG.md").read_text().splitlines():
        if line.startswith("| `l0func."):
            for module in re.findall(r"`(l0func[\w.]+)`", line.split("|")[2]):
                assert importlib.util.find_spec(module) is not None, module


@pytest.mark.filterwarnings("ignore")
def test_the_programs_in_gotchas_run_as_they_stand(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    programs = re.findall(r"```python\n(.*?)```", (DOCS / "gotchas.md").read_text(), re.DOTALL)
    (tmp_path / "program.py").write_text("".join(programs))
    monkeypatch.chdir(tmp_path)
    runpy.run_path("program.py")
    assert (tmp_path / "small.safetensors").exists()


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {l0func.__version__}\n" in citation
    assert f"\n## {l0func.__version__}" in (ROOT / "CHANGELOG.md").read_text()
