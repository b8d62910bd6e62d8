"""Directions of imports between the rooms, and between the inner rooms of fovea and environments."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VOCABULARY = {"fovea"}
FOVEA = VOCABULARY | {f"fovea.{name}" for name in ("data", "runs", "kernels", "models", "arguments", "training")}
ENVIRONMENTS = {"environments", "environments.policies", "environments.probes"}
SYNTHESIS = {"synthesis", *(f"synthesis.{name}" for name in ("shapes", "tiny", "formats", "checks"))}
TRAININGS = {"sft", "rl", "evaluation"}
ALLOWED: dict[str, set[str]] = {
    "fovea": set(),
    "fovea.data": VOCABULARY,
    "fovea.runs": VOCABULARY,
    "fovea.kernels": VOCABULARY,
    "fovea.models": VOCABULARY | {"fovea.runs", "fovea.kernels"},
    "fovea.arguments": VOCABULARY | {"fovea.data", "fovea.models"},
    "fovea.training": VOCABULARY | {"fovea.runs", "fovea.kernels", "fovea.models", "fovea.arguments"},
    "environments": FOVEA,
    "environments.policies": FOVEA | {"environments"},
    "environments.probes": FOVEA | {"environments", "environments.policies"},
    "rewards": FOVEA,
    "sft": FOVEA | ENVIRONMENTS,
    "synthesis.shapes": FOVEA,
    "synthesis.tiny": FOVEA | ENVIRONMENTS | {"rewards", "synthesis.shapes"},
    "synthesis.formats": FOVEA | ENVIRONMENTS,
    "synthesis": FOVEA | ENVIRONMENTS | {"rewards", "synthesis.shapes", "synthesis.tiny", "synthesis.formats"},
    "synthesis.checks": FOVEA | ENVIRONMENTS | {"synthesis", "synthesis.formats"},
    "rl": FOVEA | ENVIRONMENTS | {"rewards"},
    "evaluation": FOVEA | ENVIRONMENTS | {"rewards"},
    "doctor": FOVEA | ENVIRONMENTS | SYNTHESIS | TRAININGS | {"rewards"},
    "benchmarks": FOVEA | ENVIRONMENTS | SYNTHESIS | TRAININGS | {"rewards", "doctor"},
}
"""By room, the rooms that it may import beside itself. A room's name stands for the files that no inner room holds."""
FILES = [path for room in sorted({name.partition(".")[0] for name in ALLOWED}) for path in (ROOT / room).rglob("*.py")]


def room_of(module: str) -> str | None:
    """The innermost room of a module, None if it is not ours."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in ALLOWED), None)


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden_imports(path: Path, room: str) -> set[str]:
    allowed = ALLOWED[room] | {room, None}
    return {module for module in imported_modules(path) if room_of(module) not in allowed}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert not forbidden_imports(path, room_of(module))


def test_no_room_imports_one_that_imports_it():
    rooms = list(ALLOWED)
    assert all(rooms.index(below) < rooms.index(room) for room, allowed in ALLOWED.items() for below in allowed)


def test_the_import_reader_sees_imports(tmp_path):
    (tmp_path / "a.py").write_text("def f():\n    from rl.trainer import X\n    import evaluation.report\n")
    assert forbidden_imports(tmp_path / "a.py", "fovea") == {"rl.trainer.X", "evaluation.report"}
    (tmp_path / "b.py").write_text("from fovea import models\nfrom fovea.boxes import Box\nimport torch\n")
    assert forbidden_imports(tmp_path / "b.py", "fovea.data") == {"fovea.models"}


@pytest.mark.parametrize("script", ["rl/train_grpo.py", "sft/train_sft.py"])
def test_a_script_finds_the_rooms_of_its_clone_before_it_imports_one(script):
    """So that it runs from a clone that is not installed."""
    text = (ROOT / script).read_text()
    first_import = min(node.lineno for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)
                       and room_of(str(node.module)) is not None)  # fmt: skip
    path_is_set = next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith("sys.path.insert"))
    assert path_is_set < first_import


@pytest.mark.parametrize("room", ["rl", "sft"])
def test_no_module_shadows_a_package(room):
    taken = set(sys.stdlib_module_names) | {"trl", "torch", "datasets", "transformers", "peft", "accelerate", "vllm"}
    assert not {path.stem for path in (ROOT / room).glob("*.py")} & taken


def test_boxes_config_rewards_and_comparison_do_not_import_torch():
    modules = (
        "fovea.boxes, fovea.config, rewards.registry, evaluation.compare, evaluation.edits, evaluation.consistency"
    )
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "False"
