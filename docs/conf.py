"""How Sphinx builds the documentation: ``make docs``."""

from __future__ import annotations

import inspect
import os
import posixpath
import re
import tempfile
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

# Importing Airflow writes its configuration file and logs into its home.
_airflow_home = tempfile.TemporaryDirectory()
os.environ |= {"AIRFLOW_HOME": _airflow_home.name, "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"}

import airflow_provider_segmind

project = "airflow-provider-segmind"
author = "airflow-provider-segmind maintainers"
version = release = airflow_provider_segmind.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxcontrib.mermaid", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}

# Anchors of headings are those of a code host.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
myst_enable_extensions = ["attrs_inline"]

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"Segmind for Airflow {release}"
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_copy_source = False
html_show_copyright = False
# DuckDB's SQL has literals that the highlighter does not know.
suppress_warnings = ["misc.highlighting_failure"]

_LISTED = re.compile(r"^\s*(?:[-*]|\|).*?\]\(([\w./-]+\.md)\)", flags=re.MULTILINE)


def _navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """
    Give the pages that an index page lists as the site's navigation, in their order.

    A code host would show Sphinx's own directive as text, so the list that people read is the only one. A page that no
    index lists is a warning, and with it an error.
    """
    if posixpath.basename(name) == "index":
        folder = Path(app.srcdir, name).parent
        pages = [page for page in dict.fromkeys(_LISTED.findall(source[0])) if (folder / page).is_file()]
        source[0] += "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"


def _arguments(
    app: Sphinx, what: str, name: str, value: Any, options: Any, given: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """Show the arguments of an operator, which the metaclass of Airflow's operators hides from Sphinx."""
    if what != "class" or not given or "kwargs" not in given:
        return None
    signature = inspect.signature(value)
    names = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=names, return_annotation=signature.empty)), returned


def setup(app: Sphinx) -> None:
    """Register the navigation and the signatures."""
    app.connect("source-read", _navigation)
    app.connect("autodoc-process-signature", _arguments)
