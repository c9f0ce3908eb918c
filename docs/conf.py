"""The site: ``make docs`` builds it into docs/_build/html."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE / "_ext")]
os.environ["PYTHONPATH"] = str(ROOT)  # of the notebooks' kernels and of the programs
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # what the pages show, they show everywhere

from l2rw_jax import __version__  # noqa: E402

project = "l2rw_jax"
author = "the l2rw_jax authors"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "from_code",
]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [("py:class", ".*")]  # types in signatures, mostly of other libraries
smartquotes = False  # else --flag is shown with a dash
default_role = "literal"  # of `names` in docstrings

# The notebooks: every build runs them; an error ends it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds a cell may take, on a busy machine
nb_merge_streams = True
nb_output_stderr = "remove"
nb_render_markdown_format = "myst"  # with tables
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings have shapes and types
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "l2rw_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = False
html_copy_source = html_show_sourcelink = False
pygments_dark_style = "github-dark"
mathjax_path = "mathjax/tex-chtml.js"  # a copy: the site loads nothing from the net
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
