"""Configuration of the site: `sphinx-build -W --keep-going -b html docs build/docs`; every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers_fastconformer import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "transformers_fastconformer"
author = "the contributors"
copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "docstrings",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "outside_resources",
]
exclude_patterns = ["_extensions", "_static"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "transformers_fastconformer"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
templates_path: list[str] = []
