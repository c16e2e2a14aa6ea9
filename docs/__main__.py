"""Builds the site: ``python -m docs``, or ``python -m docs --open`` to read it at once."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
import webbrowser
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit("The site needs Python 3.11 or later; the library itself needs 3.10.")

from sphinx.cmd.build import main as sphinx

from docs.names import failed_examples, faults
from docs.site import BUILD, HERE

HTML = BUILD / "html"


def main() -> int:
    """Check every public name's example, build the pages, and list their external links."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument("--open", action="store_true", help="open the site in a browser")
    parser.add_argument("--clean", action="store_true", help="forget all that was built before")
    options = parser.parse_args()
    start = time.perf_counter()
    if options.clean:
        shutil.rmtree(BUILD, ignore_errors=True)
    failed = [*faults(), *failed_examples()]
    if failed:
        print("\n".join(failed), file=sys.stderr)
        return 1
    # Markdown twins of deleted pages would stay.
    shutil.rmtree(HTML, ignore_errors=True)
    # Sphinx gives each process a run of pages, and those with cells lie side by side: more
    # processes than cores share them better.
    code = sphinx(["-W", "--keep-going", "-q", "-j", "8", "-b", "html", *_folders()])
    if code:
        return code
    links = external_links(HTML)
    (BUILD / "external_links.txt").write_text("\n".join(links) + "\n")
    page = HTML / "index.html"
    print(f"{page}: {time.perf_counter() - start:.0f} s, {len(links)} external links listed")
    if options.open:
        webbrowser.open(page.as_uri())
    return 0


def _folders() -> list[str]:
    return ["-d", str(BUILD / "doctrees"), str(HERE), str(HTML)]


def external_links(folder: Path) -> list[str]:
    """The addresses outside of the site that its pages link to; none is fetched."""
    found: set[str] = set()
    for page in folder.rglob("*.html"):
        found.update(re.findall(r'<a [^>]*href="(https?://[^"]+)"', page.read_text()))
    return sorted(found)


if __name__ == "__main__":
    sys.exit(main())
