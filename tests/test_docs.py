"""Files, functions and classes that the documentation names exist, and generated pages are current."""

import argparse
import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fovea import cli, config
from rl import train_grpo
from sft import train_sft

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


def writer_of(page):
    """The module `docs/write_PAGE.py`."""
    spec = importlib.util.spec_from_file_location(f"write_{page}", ROOT / "docs" / f"write_{page}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["options", "errors"])
def test_generated_pages_are_current(page):
    module = writer_of(page)
    assert module.PAGE.read_text() == module.page(), f"run python docs/write_{page}.py"


def test_every_option_of_ours_has_a_row():
    """Those of a command's class, and those that it inherits from a class that no section may have named."""
    module = writer_of("options")
    kinds = {kind for _, section in module.SECTIONS.values() for kind in section}
    ours = {base for kind in kinds for base in kind.__mro__ if base.__module__.split(".")[0] in ROOMS.split("|")}
    named = {one.name for kind in ours for one in module.own_fields(kind) if one.init}
    assert named == set(re.findall(r"^\| `--(\w+)` ", module.page(), re.MULTILINE))


def test_messages_are_collected_with_their_cures():
    module = writer_of("errors")
    text = """
def _require(condition, problem):
    if not condition:
        raise CheckError(problem)

def load(path, kind):
    if problem := wrong(path):
        raise TaskError(problem)
    raise TaskError(f"{path} is no {KIND}: " "give a file")

def wrong(path):
    return f"{path} is empty" if path else None

def check(note, count):
    _require(count, f"{count} rows are too few")
    note.fail(f"{count} broken", "mend them")
"""
    source = module.Module("fovea/x.py", tree := ast.parse(text), {f.name: f for f in tree.body})
    assert set(module.raised(source, {"KIND": "table"})) == {
        ("TaskError", "… is empty"),
        ("TaskError", "… is no table: give a file"),
        ("CheckError", "… rows are too few"),
        ("finding", "… broken -> mend them"),
    }


def test_rows_of_troubleshooting_quote_messages_that_exist():
    """Those of Fovea; the last tables quote other libraries too."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    ours = page[: page.index("## Messages of TRL")]
    quoted = [part for row in re.findall(r"^\| (.+?) \|", ours, re.M) for part in re.findall(r"`([^`]*…[^`]*)`", row)]
    messages = (ROOT / "docs" / "errors.md").read_text()
    pieces = {piece.strip() for text in quoted for piece in text.split("…") if len(piece.split()) > 2}
    assert len(pieces) > 15
    assert not {piece for piece in pieces if piece not in messages}


class Parsed(BaseException):
    """A command line was understood; the command itself is not run. No handler of errors may take it for one."""


def commands_of(page):
    """The command lines in a page's blocks that one process runs, without those that name what is to be filled in."""
    blocks = re.findall(r"```(?:sh|text|)\n(.*?)```", page.read_text(), re.DOTALL)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        line = re.sub(r"^[A-Z_]+=\S+ ", "", line.strip())
        script = re.match(r"(?:accelerate launch|python|torchrun) .*?((?:rl/train_grpo|sft/train_sft)\.py.*)", line)
        if line.startswith("fovea ") or script:
            command = script[1] if script else line
            if not re.search(r"[…$|>*]", command):
                yield command


COMMANDS = sorted({(page.name, command) for page in PAGES for command in commands_of(page)})
MAINS = {"rl/train_grpo.py": train_grpo.main, "sft/train_sft.py": train_sft.main, "fovea": cli.main}


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: value[:60])
def test_every_command_line_of_a_page_is_understood(page, command, monkeypatch, tmp_path):
    """By the parser of its command, recipes included, as far as these are files of the repository."""
    parse, parse_args = config._parse, argparse.ArgumentParser.parse_args

    def understood(*args, **kwargs):
        parsed, rest = parse(*args, **kwargs)
        if not rest:
            raise Parsed
        return parsed, rest

    def understood_too(self, *args, **kwargs):
        parse_args(self, *args, **kwargs)
        raise Parsed

    words = shlex.split(command, comments=True)
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(config, "_parse", understood)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", understood_too)
    monkeypatch.chdir(tmp_path)
    try:
        MAINS[words[0]]()
    except Parsed:
        return
    except config.ConfigError as error:
        assert "no such config" in str(error).lower() or "mine.yaml" in str(error), error
