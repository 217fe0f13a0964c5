"""How Sphinx builds these pages: ``sphinx-build -n -W docs OUT``, or ``tox -e docs``."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import api  # noqa: E402  # the path above has it

project = "event"
author = "The event maintainers"
project_copyright = author
version = release = version_of("e3-event")

extensions = ["myst_parser", "autoapi.extension", "sphinx.ext.viewcode", "sphinx_copybutton", "api", "commandline"]
exclude_patterns = ["_build", "_templates", "examples"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# autoapi reads the source without importing it. The page of each module is reference/api/MODULE.
autoapi_dirs = [str(HERE.parent / "src" / "event")]
autoapi_template_dir = str(HERE / "_templates")
autoapi_prepare_jinja_env = api.prepare_jinja_env
autoapi_root = "reference/api"
autoapi_add_toctree_entry = False
# The pages do not show the private packages. autoapi cannot see the names that these import on first use.
suppress_warnings = ["autoapi.python_import_resolution"]
autoapi_options = ["members", "imported-members", "show-inheritance", "special-members"]
autoapi_member_order = "bysource"
autoapi_python_class_content = "class"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# Text in single backticks in a docstring is a link if it is a public name of this package, else code.
default_role = "py:obj"

# The type that event.track returns is private; the description of event.track covers it.
nitpick_ignore = [("py:class", "_tracking.Tracker")]

copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"event {release}"
html_static_path = ["_static"]
html_css_files = ["event.css"]
html_js_files = [("tables.js", {"defer": "defer"})]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
