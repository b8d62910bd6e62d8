"""Settings of the site that `make docs` builds with Sphinx: the pages beside this file, README, and the API by pdoc."""

import re

from sphinx.application import Sphinx

project = "Fovea"
html_title = "Fovea"
highlight_language = "text"
html_theme = "furo"
html_show_sourcelink = False
extensions = ["myst_parser"]
exclude_patterns = ["_site"]
myst_heading_anchors = 3

ELSEWHERE = {"README": "/index.md", "CONTRIBUTING": "/contributing.md", "fovea/tiny/README": "/tiny.md"}
"""Pages of the repository that stand outside docs, and the page of the site that includes each."""
LINK = re.compile(rf"\]\((?:\.\./)*({'|'.join(ELSEWHERE)})\.md\)")


def link_to_pages(app: Sphinx, source: object, content: list[str]) -> None:
    """Points links to files outside docs at the pages that include them, in a page as it is read."""
    content[0] = LINK.sub(lambda match: f"]({ELSEWHERE[match[1]]})", content[0])


def link_in_included(app: Sphinx, path: object, parent: str, content: list[str]) -> None:
    link_to_pages(app, path, content)


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_to_pages)
    app.connect("include-read", link_in_included)
