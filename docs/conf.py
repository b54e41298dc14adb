"""Sphinx settings: Markdown pages by hand, the API reference from the docstrings."""

from napari_medsam import __version__

project = "napari-medsam"
author = "the napari-medsam developers"
copyright = f"2026, {author}"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False

# In docstrings, single backquotes mark arguments and names, most of which have no page of their own.
default_role = "literal"

html_theme = "furo"
html_title = f"napari-medsam {release}"
