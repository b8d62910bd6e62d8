"""Coverage-guided fuzzing of what reads foreign input: `python tests/fuzz.py parser|boxes|tasks -max_total_time=300`.

Needs `pip install atheris`, and its options are libFuzzer's. Not part of the suite, whose own fuzzing is hypothesis'.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(
    include=["environments.protocol", "environments.zoom", "fovea.boxes", "fovea.data.task_files", "fovea.data.sources"]
):
    from environments.protocol import escape_control_tokens, is_well_formed, parse_actions
    from environments.views import ViewSettings
    from environments.zoom import ZoomEnvironment
    from fovea.boxes import Frame
    from fovea.data import task_files

from PIL import Image

from fovea.episodes import Answer, Call, Fault, ModelFault, NoAction
from fovea.images import PixelLimits

LIMITS = PixelLimits(32 * 32, 64 * 64, 16)
IMAGE = Image.new("RGB", (96, 64))


def parser(data: bytes) -> None:
    text = data.decode("utf-8", errors="replace")
    for said in (text, f"<think>t</think><tool_call>{text}</tool_call>"):
        assert all(isinstance(action, (Call, Answer, Fault, NoAction)) for action in parse_actions(said))
        is_well_formed(said)
        assert "<|" not in escape_control_tokens(said)


def boxes(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    frame = list(Frame)[provider.ConsumeIntInRange(0, len(Frame) - 1)]
    environment = ZoomEnvironment(ViewSettings(frame, LIMITS, LIMITS, padding=1.0 + provider.ConsumeProbability()))
    environment.reset(images=[IMAGE], question="q")
    for _ in range(3):
        box = [provider.ConsumeFloat() for _ in range(provider.ConsumeIntInRange(0, 5))]
        try:
            shown = environment.image_zoom_in_tool(box, "", provider.ConsumeIntInRange(-2, 4))[0]["image"]
        except ModelFault:
            continue
        assert min(shown.size) >= LIMITS.factor


def tasks(data: bytes) -> None:
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        task = task_files._task(row, 0, Path("."), {}, Frame.ORIGINAL, "fuzz")
    except task_files.BAD_ROW:
        return
    assert task.row() and isinstance(task.prompt, str) and isinstance(task.family, str)


SEEDS = {
    "parser": [b'{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2.5, 3e2, 4]}}', b"<answer>7</answer>"],
    "boxes": [bytes(range(60))],
    "tasks": [
        b'{"id": 1, "images": [], "question": "q", "answer": "7", "kind": "number", "metadata": {"family": "a"}}',
        b'{"question": "q", "answer": ["a"], "choices": ["a", "b"], "boxes": [[0, 0, 1, 1]]}',
        b'{"question": "q", "answer": 1, "boxes": [{"x1": 0, "y1": 0, "x2": 1, "y2": 1, "frame": "unit"}]}',
    ],
}

if __name__ == "__main__":
    target = {"parser": parser, "boxes": boxes, "tasks": tasks}[sys.argv[1]]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[sys.argv[1]]):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *sys.argv[2:], corpus], target)
        atheris.Fuzz()
