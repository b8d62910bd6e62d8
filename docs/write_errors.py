"""Writes docs/errors.md from the `raise` statements of the source: `python docs/write_errors.py`. A test checks it."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path(__file__).with_name("errors.md")
ROOMS = ("fovea", "environments", "rewards", "synthesis", "sft", "rl", "evaluation", "doctor")
SECTIONS: dict[str, tuple[str, ...]] = {
    "Options and configuration files": (
        "fovea/config.py", "fovea/arguments.py", "fovea/cli.py", "fovea/commands.py", "fovea/plugins.py",
        "environments/arguments.py", "environments/factories.py", "environments/views.py",
    ),
    "Tasks, answers and boxes": (
        "fovea/data", "fovea/answers", "fovea/placeholders.py", "fovea/tasks.py", "fovea/boxes.py", "fovea/chains.py",
        "fovea/jsonl.py",
    ),
    "Images": ("fovea/images.py", "fovea/image_budget.py", "fovea/image_store.py"),
    "Models, adapters and processors": ("fovea/models", "fovea/kernels"),
    "Traces (SFT, `fovea data`)": (
        "environments/trace", "synthesis/formats", "synthesis/checks", "synthesis/convert.py", "synthesis/mixing.py",
        "synthesis/sieve.py", "synthesis/joining.py", "synthesis/duplicates.py",
    ),
    "SFT": ("sft",),
    "GRPO": ("rl",),
    "Starting, resuming and ending a run": ("fovea/runs", "fovea/training.py", "fovea/processes.py"),
    "Environments and episodes (`fovea check-env`)": ("environments", "fovea/episodes.py"),
    "vLLM and endpoints": ("environments/policies", "fovea/endpoint.py", "fovea/server.py"),
    "Rewards (`fovea rewards test`)": ("rewards",),
    "Making traces (`fovea traces`)": (
        "synthesis/agent", "synthesis/chains", "synthesis/oracle_traces.py", "synthesis/arguments.py",
    ),
    "Making tasks (`fovea tasks`)": ("synthesis",),
    "Evaluation, comparison and analyses": ("evaluation",),
    "fovea doctor": ("doctor",),
    "Other errors": ("",),
}  # fmt: skip
"""Titles of sections, and the beginnings of the paths whose messages they hold. The longest beginning wins."""
REPORTED = {
    "ModelFault": "Faults: messages to the model",
    "RoleError": "Replies that a role's check refuses (`fovea traces agent`, `fovea traces chains`)",
    "GivenUp": "Tasks that the visual agent gives up",
    "Problem": "Problems of traces that `fovea data check` reports",
}
"""Errors that stop no command, and the titles of their sections."""
REPORTS = {
    "Faults: messages to the model": "The model reads these in place of a crop, and may try again. They stop no "
    "command. `fovea view RUN` shows them, and the metrics `faults/…` count them.",
    REPORTED["RoleError"]: "The command counts such a reply as a failure and goes on.",
    REPORTED["GivenUp"]: "The command records the reason, leaves the task out and goes on.",
    REPORTED["Problem"]: "The command goes on, and lists them at its end. [My traces](my_traces.md) explains them.",
    "fovea doctor": "The doctor also reports every error of the training that it checks.",
}
CHECKS = "synthesis/checks/"
"""Folder of the checks of traces, which yield kinds and messages in pairs."""
INTERNAL = {"NotImplementedError", "AssertionError", "NoTextLeft", "StopIteration", "KeyError", "AttributeError"}
"""Errors that only a mistake in the program itself could show to a user."""
HEAD = """# Error messages

This page lists the messages that Fovea stops with or reports. Search it for words of the message on your screen. An `…`
stands for a value, such as a path, a name or a number. [Troubleshooting](troubleshooting.md) explains the situations
behind common messages, and covers messages of TRL, Transformers, PyTorch and vLLM.

This page is written by `python docs/write_errors.py`.
"""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """A source file: its path below the repository, its tree, and its functions by name."""

    path: str
    tree: ast.Module
    functions: dict[str, Function] = field(default_factory=dict)


def modules() -> list[Module]:
    """All source files of the rooms, in the order of their paths."""
    parsed = []
    for file in sorted(itertools.chain.from_iterable((ROOT / room).rglob("*.py") for room in ROOMS)):
        tree = ast.parse(file.read_text())
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, Function)}
        parsed.append(Module(file.relative_to(ROOT).as_posix(), tree, functions))
    return parsed


def constants_of(parsed: list[Module]) -> dict[str, str]:
    """Text and number constants of the modules by name, without names that have several values."""
    values: dict[str, set[str]] = {}
    for module in parsed:
        for node in module.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                literal = node.value.value if isinstance(node.value, ast.Constant) else None
                shown = str(literal) if isinstance(literal, str | int) else "…"
                values.setdefault(node.targets[0].id, set()).add(shown)
    return {name: shown.pop() for name, shown in values.items() if len(shown) == 1 and name.isupper()}


class Messages:
    """Texts that expressions of a module may have, with `…` for what only a run knows."""

    def __init__(self, module: Module, constants: dict[str, str]) -> None:
        self.module = module
        self.constants = constants

    def of(self, node: ast.expr | None, function: Function | None, depth: int = 3) -> list[str]:
        """Possible texts of an expression in a function; a name or a call is followed `depth` times."""
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else []
        if isinstance(node, ast.JoinedStr):
            return ["".join(self._part(part) for part in node.values)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = (self.of(side, function, depth) or ["…"] for side in (node.left, node.right))
            return ["".join(pair) for pair in itertools.product(*sides)]
        if isinstance(node, ast.IfExp):
            return [*self.of(node.body, function, depth), *self.of(node.orelse, function, depth)]
        if isinstance(node, ast.Tuple):
            return [text for element in node.elts for text in self.of(element, function, depth)]
        if depth and function and isinstance(node, ast.Name):
            return [text for value in _assigned(function, node.id) for text in self.of(value, function, depth - 1)]
        if depth and isinstance(node, ast.Call):
            called = self.module.functions.get(getattr(node.func, "id", getattr(node.func, "attr", "")))
            return self._returned(called, depth - 1) if called else []
        return []

    def _part(self, part: ast.expr) -> str:
        if isinstance(part, ast.Constant):
            return str(part.value)
        value = part.value if isinstance(part, ast.FormattedValue) else part
        return self.constants.get(value.id, "…") if isinstance(value, ast.Name) else "…"

    def _returned(self, function: Function, depth: int) -> list[str]:
        """Texts that a function returns or yields."""
        nodes = [node for node in ast.walk(function) if isinstance(node, ast.Return | ast.Yield)]
        return [text for node in nodes for text in self.of(node.value, function, depth)]


def _assigned(function: Function, name: str) -> Iterator[ast.expr]:
    """Expressions that a function gives to a local name."""
    for node in ast.walk(function):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = getattr(node, "iter", None) or getattr(node, "value", None)
            if isinstance(value, ast.expr):
                yield value


@dataclass(frozen=True)
class Told:
    """A place in the source that reports a message: the error's class or the report's name, and the expressions."""

    kind: str
    message: ast.expr
    function: Function | None
    cure: ast.expr | None = None


def raised(module: Module, constants: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The class of each error of a module and its message, in the order of the file."""
    messages = Messages(module, constants)
    for told in _told(module):
        cure = "".join(f" -> {words}" for words in messages.of(told.cure, told.function)[:1])
        for text in messages.of(told.message, told.function):
            yield told.kind, text + cure


def _told(module: Module) -> Iterator[Told]:
    """Errors that are raised, or returned to be raised, then arguments of functions that raise or report them."""
    reporting = {"fail": "finding", "warn": "finding", "warning": "warning"}
    if module.path.startswith(CHECKS):
        reporting["_add"] = "Problem"
    for function, node in _in_functions(module.tree):
        value = node.value if isinstance(node, ast.Return | ast.Yield) else None
        error = node.exc if isinstance(node, ast.Raise) else value
        kind = ast.unparse(error.func).rpartition(".")[2] if isinstance(error, ast.Call) else ""
        if isinstance(error, ast.Call) and error.args and (isinstance(node, ast.Raise) or kind.endswith("Error")):
            message = error.args[1 if kind == "ModelFault" else 0]
            if function and isinstance(message, ast.Name) and message.id in _parameters(function):
                reporting[function.name] = kind
            yield Told(kind, message, function)
        elif isinstance(value, ast.Tuple) and len(value.elts) == 2 and module.path.startswith(CHECKS):
            yield Told("Problem", value.elts[1], function)
    for function, node in _in_functions(module.tree):
        called = getattr(node, "func", None)
        name = getattr(called, "id", getattr(called, "attr", ""))
        if isinstance(node, ast.Call) and node.args and name in reporting:
            is_finding = reporting[name] == "finding" and len(node.args) == 2
            message, cure = node.args if is_finding else (node.args[-1], None)
            yield Told(reporting[name], message, function, cure)


def _in_functions(tree: ast.AST, function: Function | None = None) -> Iterator[tuple[Function | None, ast.AST]]:
    """Each node of a tree in the order of the file, with the function that it stands in."""
    for node in ast.iter_child_nodes(tree):
        yield function, node
        yield from _in_functions(node, node if isinstance(node, Function) else function)


def _parameters(function: Function) -> set[str]:
    return {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}


def section_of(path: str, kind: str) -> str:
    """The title of the section that a message belongs to."""
    if kind in REPORTED:
        return REPORTED[kind]
    starts = [(len(start), title) for title, group in SECTIONS.items() for start in group if path.startswith(start)]
    return max(starts)[1]


def shown(message: str) -> str:
    """A message in a line of Markdown, which is a sentence; neighbouring placeholders become one."""
    line = " ".join(message.split())
    while "……" in line:
        line = line.replace("……", "…")
    marks = "``" if "`" in line else "`"
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"- {marks}{space}{line}{space}{marks}."


def page() -> str:
    """The whole page."""
    parsed = modules()
    constants = constants_of(parsed)
    lines: dict[str, dict[str, list[str]]] = {title: {} for title in (*SECTIONS, *REPORTED.values())}
    for module in parsed:
        for kind, message in raised(module, constants):
            words = [word for word in message.replace("…", " ").split() if any(map(str.isalpha, word))]
            if kind not in INTERNAL and len(words) > 1:
                group = lines[section_of(module.path, kind)].setdefault(module.path, [])
                if (line := shown(message)) not in group:
                    group.append(line)
    parts = [HEAD]
    for title, files in lines.items():
        if files:
            parts += [f"## {title}\n"] + ([f"{REPORTS[title]}\n"] if title in REPORTS else [])
            parts += [f"From `{path}`:\n\n" + "\n".join(group) + "\n" for path, group in files.items()]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
