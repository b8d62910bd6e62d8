"""One self-contained page about runs: `fovea report runs/tiny/base runs/tiny/sft runs/tiny/rl --output report.html`.

A RUN is a folder of `fovea eval`, or one that holds some (RUN/evaluation, RUN/evaluation_noise, …) beside what a
training left (metrics.jsonl, episodes.jsonl). The page has the headline table, differences with intervals, plots, and a
viewer of every trajectory. It asks nothing of any network. Numbers are those of `fovea eval` and `fovea compare`; the
accuracy of a set of episodes is also what `fovea rescore FOLDER --reward_funcs accuracy` finds.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any

from tqdm import tqdm

from evaluation import plots
from evaluation.compare import compare_pair, load
from evaluation.evaluate import summarize
from evaluation.stored import StoredRun
from evaluation.trajectories import Trajectories
from fovea.images import ImageError
from fovea.jsonl import read_jsonl
from fovea.runs.directory import settings_of
from fovea.statistics import holm

VIEWER = Path(__file__).parent / "viewer"
DATA = "<!-- data -->"


@dataclass(frozen=True)
class ReportedRun:
    """A run of the report: its evaluations by name, the main one first, and its training, if it has one."""

    name: str
    folder: Path
    evaluations: Mapping[str, StoredRun]
    training: StoredRun | None

    @property
    def main(self) -> tuple[str, StoredRun]:
        """The evaluation by which the run is compared with others."""
        return next(iter(self.evaluations.items()))


def find_runs(folders: Sequence[Path]) -> list[ReportedRun]:
    """The runs in these folders.

    Raises:
        SystemExit: for a folder without any episode.
    """
    found = []
    for folder, name in zip(folders, _names(folders), strict=True):
        places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
        evaluated = [path for path in places if read_jsonl(path / "samples.jsonl")]
        evaluated.sort(key=lambda path: (not _is_plain(path), path != folder, path.name != "evaluation"))
        training = StoredRun(folder) if (folder / "episodes.jsonl").exists() else None
        if not evaluated and training is None:
            raise SystemExit(
                f"{folder} holds no episodes, neither of an evaluation nor of a training: name a run's folder"
            )
        evaluations = {path.name if path != folder else "evaluation": StoredRun(path) for path in evaluated}
        found.append(ReportedRun(name, folder, evaluations, training))
    return found


def _is_plain(folder: Path) -> bool:
    """Whether nothing was taken away or forced in an evaluation, so that it speaks of the checkpoint itself."""
    settings = settings_of(folder)
    chosen = {**settings.get("evaluation", {}), **settings.get("episodes", {})}
    plain = {"crops": "true", "views": "true", "prompt": "protocol", "force": "nothing", "text_only": False}
    return all(chosen.get(name, value) == value for name, value in plain.items())


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise SystemExit("the same folder is named twice: name each run once")


def report(
    folders: Sequence[Path], *, max_image_px: int = 480, max_training_groups: int = 40, seed: int = 0
) -> Iterator[str]:
    """The page, part by part: pictures are many and are not held together."""
    runs = find_runs(folders)
    shown = Trajectories(max_image_px)
    for run in tqdm(runs, desc="runs", leave=False, mininterval=2):
        for name, stored in run.evaluations.items():
            shown.add(shown.add_set(run.name, name, stored), stored, stored.rows)
        if run.training is not None:
            rows = thinned(run.training.rows, max_training_groups)
            shown.add(shown.add_set(run.name, "training", run.training), run.training, rows)
    title = f"Fovea: {', '.join(run.name for run in runs)}"
    summary = summary_html(title, runs, shown, seed=seed)
    head, _, tail = page(title, summary, is_live=False).partition(DATA)
    yield head
    yield f'<script type="application/json" id="data">{as_script(shown.data())}</script>\n'
    for key in tqdm(shown.sources, desc="pictures", leave=False, mininterval=2):
        try:
            content = base64.b64encode(shown.picture(key)).decode()
        except ImageError as error:
            print(f"left out: {error}")
            continue
        yield f'<script type="text/plain" id="picture-{key}">{content}</script>\n'
    yield tail


def page(title: str, summary: str, *, is_live: bool) -> str:
    """The page with `DATA` where its data go."""
    return Template((VIEWER / "page.html").read_text()).substitute(
        title=html.escape(title),
        style=(VIEWER / "viewer.css").read_text(),
        live="1" if is_live else "0",
        summary=summary,
        script=(VIEWER / "viewer.js").read_text(),
    )


def as_script(value: Any) -> str:
    """JSON that can stand inside a script element, whatever texts it holds."""
    text = json.dumps(value, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def thinned(rows: Sequence[dict[str, Any]], num_groups: int) -> list[dict[str, Any]]:
    """The rows of at most so many groups (step, mode, task), evenly spread over the training."""
    keys = list(dict.fromkeys((row.get("step"), row.get("mode"), row["task_id"]) for row in rows))
    stride = max(1, len(keys) / num_groups)
    kept = {keys[int(number * stride)] for number in range(min(num_groups, len(keys)))}
    return [row for row in rows if (row.get("step"), row.get("mode"), row["task_id"]) in kept]


def summary_html(title: str, runs: Sequence[ReportedRun], shown: Trajectories, *, seed: int) -> str:
    """The tables and plots above the viewer."""
    summaries = {(run.name, name): summarize(stored.rows) for run in runs for name, stored in run.evaluations.items()}
    parts = [f"<header><h1>{html.escape(title)}</h1>{_provenance(runs)}</header>", '<div class="summary">']
    if summaries:
        parts += ["<h2>Accuracy</h2>", _accuracies(summaries)]
        parts += _differences(runs, seed)
        drawn = [_frontier(summaries), _zooms(runs, shown)]
    else:
        drawn = []
    drawn += _sweeps(runs)
    drawn += plots.learning_curves({run.name: read_jsonl(run.folder / "metrics.jsonl") for run in runs})
    return "\n".join([*parts, "<h2>Plots</h2>", f'<div class="plots">{"".join(drawn)}</div>', "</div>"])


def _provenance(runs: Sequence[ReportedRun]) -> str:
    """Where each run came from: commit and command."""
    lines = []
    for run in runs:
        stored = run.training or run.main[1]
        path = stored.folder / "run.json"
        record = json.loads(path.read_text()) if path.exists() else {}
        commit = str(record.get("commit") or "no commit")[:10] + (", changed" if record.get("dirty") else "")
        words = " ".join(str(word) for word in record.get("command", []))
        lines.append(
            f"<div><b>{html.escape(run.name)}</b> {html.escape(commit)} <code>{html.escape(words)}</code></div>"
        )
    return f'<div class="quiet">{"".join(lines)}</div>'


def _accuracies(summaries: Mapping[tuple[str, str], dict[str, Any]]) -> str:
    """The headline table."""
    families = sorted({family for summary in summaries.values() for family in summary["families"]})
    shown = families if 1 < len(families) <= 8 else []
    rules = sorted({rule for summary in summaries.values() for rule in summary.get("rules", {}) if rule != "strict"})
    head = ["run", "episodes", "n", "accuracy", "95% interval", "best constant", *(f"by {rule}" for rule in rules),
            "zooms", "tokens", *shown]  # fmt: skip
    rows = []
    for (run, name), summary in summaries.items():
        low, high = summary["interval"]
        row = [run, name, summary["n"], f"{summary['accuracy']:.3f}", f"{low:.3f}-{high:.3f}"]
        row += [f"{summary['best_constant']:.3f}"]
        row += [f"{summary['rules'][rule]:.3f}" if rule in summary.get("rules", {}) else "" for rule in rules]
        row += [f"{summary['zooms_per_question']:.2f}", f"{summary['tokens_per_question']:.0f}"]
        row += [f"{summary['families'][f]['accuracy']:.3f}" if f in summary["families"] else "" for f in shown]
        rows.append(row)
    return _table(head, rows)


def _differences(runs: Sequence[ReportedRun], seed: int) -> list[str]:
    """Run against run by their main evaluations, and each run against itself with something taken away."""
    evaluated = [run for run in runs if run.evaluations]
    pairs = [(a.name, b.name, a.main[1], b.main[1]) for a, b in combinations(evaluated, 2)]
    between = len(pairs)
    for run in evaluated:
        (main_name, main_one), *others = run.evaluations.items()
        pairs += [(f"{run.name} / {name}", f"{run.name} / {main_name}", other, main_one) for name, other in others]
    found: list[tuple[int, str, str, dict[str, Any]]] = []
    skipped = []
    for number, (name_a, name_b, one, other) in enumerate(pairs):
        try:
            found.append((number, name_a, name_b, compare_pair(load(one.folder), load(other.folder), seed=seed)))
        except ValueError as error:
            skipped.append(f"<p class=quiet>{html.escape(f'{name_a} and {name_b} are not compared: {error}')}</p>")
    head = ["A", "B", "n", "A", "B", "B - A", "95% interval", "p", "p, adjusted", "gained", "lost"]
    rows: list[list[list[Any]]] = [[], []]
    adjusted = holm([result["p_value"] for *_, result in found])
    for (number, name_a, name_b, result), p_adjusted in zip(found, adjusted, strict=True):
        low, high = result["interval"]
        row = [name_a, name_b, result["n"], f"{result['accuracy_a']:.3f}", f"{result['accuracy_b']:.3f}"]
        row += [f"{result['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}", f"{result['p_value']:.2g}"]
        row += [f"{p_adjusted:.2g}", result["flips"]["gained"], result["flips"]["lost"]]
        rows[number >= between].append(row)
    parts = ["<h2>Differences</h2>", _table(head, rows[0])] if rows[0] else []
    if rows[1]:
        said = "Each run against itself with something taken away or forced: the difference is what that was worth."
        parts += ["<h2>Does it look?</h2>", f'<p class="quiet">{said}</p>', _table(head, rows[1])]
    return parts + skipped


def _frontier(summaries: Mapping[tuple[str, str], dict[str, Any]]) -> str:
    points = {
        f"{run} / {name}": (summary["context_tokens_per_question"], summary["accuracy"], tuple(summary["interval"]))
        for (run, name), summary in summaries.items()
    }
    return plots.frontier(points)


def _zooms(runs: Sequence[ReportedRun], shown: Trajectories) -> str:
    """The share of episodes that zoom, by how much of its image the smallest box of a task covers."""
    rates: dict[str, dict[str, float]] = {}
    for run in runs:
        if not run.evaluations:
            continue
        number = next(n for n, one in enumerate(shown.sets) if (one["run"], one["name"]) == (run.name, run.main[0]))
        zoomed = defaultdict(list)
        for episode in shown.episodes:
            if episode["set"] == number:
                zoomed[_need(shown.tasks[episode["task"]]["targets"])].append(episode["num_zooms"] > 0)
        rates[run.name] = {need: fmean(found) for need, found in zoomed.items()}
    return plots.zooms_against_need(rates, [*NEEDS.values(), NO_BOX])


NEEDS = {0.001: "under 0.1%", 0.01: "0.1-1%", 0.1: "1-10%", 1.01: "over 10%"}
"""Shares of an image that a task's smallest box covers: the smaller, the more a zoom is needed."""
NO_BOX = "no box"


def _need(targets: Sequence[Mapping[str, Any]]) -> str:
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (target["box"] for target in targets)]
    return next((name for most, name in NEEDS.items() if min(areas) < most), NO_BOX) if areas else NO_BOX


def _sweeps(runs: Sequence[ReportedRun]) -> list[str]:
    """The plot of the sweeps over view sizes in the runs' folders, if there are any."""
    found = {}
    for run in runs:
        for path in [*run.folder.glob("sweep.json"), *run.folder.glob("*/sweep.json")]:
            found[run.name] = {int(side): part["accuracy"] for side, part in json.loads(path.read_text()).items()}
    return [plots.sweep(found)] if found else []


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, the baseline first")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the page (default: report.html)")
    parser.add_argument("--max_image_px", type=int, default=480, help="longer side of the pictures in it")
    parser.add_argument("--max_training_groups", type=int, default=40, help="groups of rollouts shown of each training")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    parts = report(args.runs, max_image_px=args.max_image_px, max_training_groups=args.max_training_groups)
    aside = args.output.with_suffix(".tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.writelines(parts)
    aside.replace(args.output)
    print(f"written to {args.output} ({args.output.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    main()
