"""What the documentation names is there: files, and functions or classes in them."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
PAGES.remove(ROOT / "docs" / "LOG.md")  # tells of what was
ROOMS = "fovea|environments|rewards|synthesis|sft|rl|evaluation|doctor|benchmarks|configs|examples|tests|docs"
NAMED = re.compile(rf"`((?:{ROOMS})/[\w/.-]+\.(?:py|md|yaml|js|json|jsonl|sbatch))(?::([\w.]+))?`")
CASES = sorted({(page.name, *match) for page in PAGES for match in NAMED.findall(page.read_text())})


def names_in(path):
    """Functions, classes, constants and fields of a module, those in classes as `Class.name`."""

    def of(body, prefix):
        for node in body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from of(node.body, f"{node.name}.")

    return set(of(ast.parse(path.read_text()).body, ""))


@pytest.mark.parametrize(("page", "file", "name"), CASES, ids="-".join)
def test_what_a_page_names_is_there(page, file, name):
    assert (ROOT / file).exists()
    assert not name or name in names_in(ROOT / file)


def test_pages_name_files_and_what_is_in_them():
    assert sum(bool(name) for *_, name in CASES) > 30


@pytest.mark.parametrize(
    "row", re.findall(r"^\| .+ \| (`.+`) \| (`.+`) \|$", (ROOT / "docs/api.md").read_text(), re.M), ids=str
)
def test_names_of_the_api_are_there(row):
    modules, names = (re.findall(r"`([\w.]+)`", cell) for cell in row)
    assert modules and set(names) <= set().union(*(names_in(ROOT / f"{name.replace('.', '/')}.py") for name in modules))


@pytest.mark.slow
def test_the_site_has_no_broken_link(tmp_path):
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(ROOT / "docs"), str(tmp_path)]
    assert subprocess.run(build, capture_output=True, text=True).stderr == ""
    assert (tmp_path / "recipes.html").exists()


def test_the_page_of_options_is_current():
    spec = importlib.util.spec_from_file_location("write_options", ROOT / "docs" / "write_options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run python docs/write_options.py"
