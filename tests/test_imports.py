"""Which way imports may run between the rooms."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "fovea": set(),
    "environments": {"fovea"},
    "rewards": {"fovea"},
    "sft": {"fovea", "environments"},
    "synthesis": {"fovea", "environments", "rewards"},
    "rl": {"fovea", "environments", "rewards"},
    "evaluation": {"fovea", "environments", "rewards"},
}
FILES = [path for room in ALLOWED for path in (ROOT / room).rglob("*.py")]


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names & ALLOWED.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    assert imported_rooms(path) <= ALLOWED[room] | {room}


def test_the_import_reader_sees_imports(tmp_path):
    (tmp_path / "a.py").write_text("def f():\n    from rl.trainer import X\n")
    assert imported_rooms(tmp_path / "a.py") == {"rl"}


@pytest.mark.parametrize("room", ["rl", "sft"])
def test_no_module_shadows_a_package(room):
    import sys

    taken = set(sys.stdlib_module_names) | {"trl", "torch", "datasets", "transformers", "peft", "accelerate", "vllm"}
    assert not {path.stem for path in (ROOT / room).glob("*.py")} & taken


def test_boxes_config_and_rewards_do_not_import_torch():
    import subprocess
    import sys

    code = "import sys, fovea.boxes, fovea.config, rewards.registry; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "False"
