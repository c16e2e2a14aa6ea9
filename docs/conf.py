"""Sphinx's settings: pages in Markdown with cells that run, and a page for every public name."""

from __future__ import annotations

from typing import Any

import l0func
from docs.reference import write_pages
from docs.site import cells_folder, prepare_cells

project = "l0func"
author = "The l0func authors"
project_copyright = author
version = release = l0func.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_llm.txt",
    "docs.mathml",
]
exclude_patterns = ["_build"]
nitpicky = True
# torch's and Python's names, and types inside the package, have no page here.
nitpick_ignore_regex = [("py:(class|obj|data)", ".*"), ("py:.*", r"(torch|nn|copy|optree)\..*")]

html_theme = "furo"
html_title = f"l0func {version}"
html_show_sphinx = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["l0func.css"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_cache_path = str(cells_folder())
nb_execution_timeout = 120
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "error"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False

llms_txt_build_parallel = False
llms_txt_description = "L0 regularisation for PyTorch as pure functions."
llms_txt_suppress_unknown_node_warnings = ["toctree", "abbreviation"]


def setup(app: Any) -> None:
    """Write the reference's pages, and prepare for cells, before Sphinx looks for pages."""
    prepare_cells()
    app.connect("config-inited", lambda app, config: write_pages(app.srcdir))
