"""What the site needs besides mkdocs: pages from the root, links that fit both places, the tables of docstrings."""

import posixpath
import re
from pathlib import Path

from griffe import Extension
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Lines of "name  meaning", as our docstrings have them, with the lines that go on below.
TABLE = re.compile(r"^\S.*?\S {2,}\S.*(?:\n.+)*", re.MULTILINE)


def on_files(files, config):
    """README and its neighbours are pages too; how this file works is not."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown, page, config, **_):
    """Links as the repository has them, to pages of the site or to files of the repository."""
    sources = {made: source for source, made in PAGES.items()}
    here = posixpath.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def link(found):
        path, anchor = posixpath.normpath(posixpath.join(here, found[1])), found[2] or ""
        there = PAGES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if there is None:
            return f"]({config.repo_url}/blob/main/{path}{anchor})"
        return f"]({posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)", link, markdown)


class Tables(Extension):
    """Keeps the tables of docstrings as they are written."""

    def on_instance(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = TABLE.sub(lambda found: f"```text\n{found[0]}\n```", obj.docstring.value)
