"""Speed of the trajectory viewer: `python -m benchmarks.viewer --num_episodes 5000` in headless Chromium.

Builds a report of so many episodes on half as many distinct images, opens it some times, and prints when the first
contentful paint was, when the list could be used, and how long filters, a search and a step to the next episode took.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from evaluation.arguments import EvaluationArguments
from evaluation.report import report
from evaluation.samples import sample_of
from fovea.boxes import Box, Frame
from fovea.commands import plain_parser
from fovea.data.task_files import save_tasks
from fovea.episodes import Answer, Call, Crop, Episode, Observation, StopReason, Turn
from fovea.runs.directory import RunDirectory
from fovea.runs.records import SAMPLES, Sample, append
from fovea.tasks import Task
from synthesis.shapes import make_tasks

ACTIONS = {
    "filter by outcome": ("outcome", "wrong"),
    "filter by family": ("family", "read"),
    "search": ("text", "green square"),
    "clear": ("text", ""),
}
SET = """([id, value]) => {
  const started = performance.now(), control = document.getElementById(id);
  control.value = value; control.dispatchEvent(new Event("input")); document.body.getBoundingClientRect();
  return performance.now() - started;
}"""
STEP = """() => {
  const started = performance.now();
  document.dispatchEvent(new KeyboardEvent("keydown", {key: "j", bubbles: true}));
  document.body.getBoundingClientRect();
  return performance.now() - started;
}"""


def samples(tasks: Iterable[Task], number: int) -> Iterable[Sample]:
    """Samples of episodes with one zoom, right and wrong by turns."""
    region = Box(0.25, 0.25, 0.5, 0.5, Frame.UNIT)
    for index, task in enumerate(tasks):
        answer = str(task.answer) if (index + number) % 2 else "?"
        zoom = Turn(
            f"<think>I zoom in. {'I look at it. ' * 10}</think>\n<tool_call>…</tool_call>",
            Call("image_zoom_in_tool", {}),
            Observation("This is image 1.", (Crop(1, 0, region, (64, 64)),)),
            45,
        )
        answered = Turn(f"<answer>{answer}</answer>", Answer(answer), None, 15)
        yield sample_of(Episode(task, (zoom, answered), StopReason.ANSWERED), number)


def measure(path: Path) -> dict[str, float]:
    """Milliseconds of one visit."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"file://{path}", wait_until="commit")
        page.wait_for_selector("body[data-ready='1']", timeout=60_000)
        milliseconds = {"list can be used": page.evaluate("performance.now()")}
        milliseconds["first contentful paint"] = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        for name, control in ACTIONS.items():
            milliseconds[name] = page.evaluate(SET, list(control))
        milliseconds["next episode"] = page.evaluate(STEP)
        browser.close()
    return milliseconds


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--num_episodes", type=int, default=5000)
    parser.add_argument("--visits", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = make_tasks(num_tasks=args.num_episodes // 2, seed=5)
        save_tasks(tasks, folder / "tasks")
        run = RunDirectory(folder / "evaluation")
        arguments = EvaluationArguments(output_dir=str(run.path), dataset_name=str(folder / "tasks"))
        run.write_start(evaluation=arguments, episodes={})
        for number in range(2):
            append(run.path / SAMPLES, samples(tasks, number))
        page = folder / "report.html"
        with page.open("w", encoding="utf-8") as file:
            file.writelines(report([run.path]))
        visits = [measure(page) for _ in range(args.visits)]
        size = page.stat().st_size / 2**20
    print(f"{args.num_episodes} episodes on {len(tasks)} images, {size:.0f} MiB, {args.visits} visits\n")
    print("| what | median ms | most ms |\n|---|---|---|")
    for what in visits[0]:
        values = [visit[what] for visit in visits]
        print(f"| {what} | {median(values):.0f} | {max(values):.0f} |")


if __name__ == "__main__":
    main()
