"""The documentation site, built by `make docs`: the pages of this folder, and a reference that is made of the declarations."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from pvhdbg.version import BASE_URL, VERSION  # noqa: E402
from scripts.write_reference import write_reference  # noqa: E402

project = "pvhdbg"
version = release = VERSION
html_title = f"pvhdbg {VERSION}"
html_baseurl = BASE_URL
extensions = ["myst_parser"]
myst_heading_anchors = 5
myst_links_external_new_tab = False
html_theme = "furo"
html_show_sphinx = False
html_extra_path = ["images"]  # also under their own names: the README on a package index shows them
exclude_patterns = ["_build"]
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

write_reference(HERE / "reference")
