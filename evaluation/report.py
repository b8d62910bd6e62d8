"""One self-contained page about runs: `fovea report runs/tiny/base runs/tiny/sft runs/tiny/rl --output report.html`.

A RUN is a folder of `fovea eval`, or one that holds some (RUN/evaluation, RUN/evaluation_noise, …) beside what a
training left (metrics.jsonl, episodes.jsonl). The page has the headline table, differences with intervals, plots, and a
viewer of trajectories. It asks nothing of any network. Numbers are those of `fovea eval` and `fovea compare`; the
accuracy of a set of episodes is also what `fovea rescore FOLDER --reward_funcs accuracy` finds.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from tqdm import tqdm

from evaluation import figures, plots
from evaluation.differences import Compared, Pair, compare_runs, headline
from evaluation.discover import FoundRun, find_runs
from evaluation.evidence import evidence
from evaluation.markdown import cells_of, encodable
from evaluation.summary import summarize
from evaluation.trajectories import Trajectories
from fovea.commands import at_least_one, plain_parser
from fovea.images import ImageError
from fovea.jsonl import read_jsonl, replacing
from fovea.runs.records import Summary

VIEWER = Path(__file__).parent / "viewer"
DATA = "<!-- data -->"


def report(
    folders: Sequence[Path],
    *,
    max_image_px: int = 480,
    max_pictures: int = 1000,
    max_training_groups: int = 40,
    seed: int = 0,
) -> Iterator[str]:
    """The page, part by part: pictures are many and are not held together.

    Tables and plots are of all episodes. The viewer has those of a random sample of questions where
    an evaluation shows more than `max_pictures` pictures.
    """
    runs = find_runs(folders)
    shown, evaluated = Trajectories(max_image_px), list[int]()
    for run in tqdm(runs, desc="runs", leave=False, mininterval=2):
        for name, stored in run.evaluations.items():
            evaluated.append(shown.add_set(run.name, name, stored))
            shown.add(evaluated[-1], stored, stored.records)
        if run.training is not None:
            rollouts = thinned(run.training.records, max_training_groups)
            shown.add(shown.add_set(run.name, "training", run.training), run.training, rollouts)
    shown.opening = _opening(runs, shown)
    title = f"Fovea: {', '.join(run.name for run in runs)}"
    summary = summary_html(title, runs, shown, seed=seed)
    for number in evaluated:
        shown.sample_questions(number, max_pictures)
    head, _, tail = page(title, summary, is_live=False).partition(DATA)
    yield head
    yield f'<script type="application/json" id="data">{as_script(shown.data())}</script>\n'
    for key in tqdm(sorted(shown.pictures_of(shown.episodes)), desc="pictures", leave=False, mininterval=2):
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


def thinned(records: Sequence[Any], num_groups: int) -> list[Any]:
    """The records of at most so many groups (step, mode, task), evenly spread over the training."""
    groups = list(dict.fromkeys(record.group for record in records))
    stride = max(1, len(groups) / num_groups)
    kept = {groups[int(number * stride)] for number in range(min(num_groups, len(groups)))}
    return [record for record in records if record.group in kept]


def summary_html(title: str, runs: Sequence[FoundRun], shown: Trajectories, *, seed: int) -> str:
    """The tables and plots above the viewer."""
    summaries = {
        (run.name, name): summarize(stored.samples) for run in runs for name, stored in run.evaluations.items()
    }
    parts = [f"<header><h1>{html.escape(title)}</h1>{_provenance(runs)}</header>", '<div class="summary">']
    if summaries:
        compared = compare_runs(runs, seed=seed)
        parts += [f'<p class="headline">{html.escape(line)}</p>' for line in headline(runs, compared)]
        parts += ["<h2>Accuracy</h2>", _accuracies(summaries), *_differences(compared)]
        for heading, text in evidence(runs):
            parts += [f"<h2>{heading}</h2>", *from_markdown(text)]
    drawn = figures.of_evaluations(runs, summaries, shown)
    drawn += plots.learning_curves({run.name: read_jsonl(run.metrics) for run in runs})
    return "\n".join([*parts, "<h2>Plots</h2>", f'<div class="plots">{"".join(drawn)}</div>', "</div>"])


def _provenance(runs: Sequence[FoundRun]) -> str:
    """Commit and command of each run."""
    lines = []
    for run in runs:
        info = run.info
        commit = str(info.commit or "no commit")[:10] + (", changed" if info.dirty else "")
        words = " ".join(f"<span>{html.escape(str(word))}</span>" for word in info.command)
        lines.append(f"<div><b>{html.escape(run.name)}</b> {html.escape(commit)} <code>{words}</code></div>")
    return f'<div class="quiet">{"".join(lines)}</div>'


def _accuracies(summaries: Mapping[tuple[str, str], Summary]) -> str:
    """The headline table."""
    families = sorted({family for summary in summaries.values() for family in summary.families})
    shown = families if 1 < len(families) <= 8 else []
    rules = sorted({rule for summary in summaries.values() for rule in summary.rules if rule != "strict"})
    head = ["run", "episodes", "n", "accuracy", "95% interval", "best constant", *(f"by {rule}" for rule in rules),
            "zooms", "tokens", "of images", *shown]  # fmt: skip
    rows = []
    for (run, name), summary in summaries.items():
        low, high = summary.interval
        row = [run, name, summary.n, f"{summary.accuracy:.3f}", f"{low:.3f}-{high:.3f}", f"{summary.best_constant:.3f}"]
        row += [f"{summary.rules[rule]:.3f}" if rule in summary.rules else "" for rule in rules]
        images = summary.image_tokens_per_question
        row += [f"{summary.zooms_per_question:.2f}", f"{summary.tokens_per_question:.0f}"]
        row.append("" if images is None else f"{images:.0f}")
        row += [f"{summary.families[family].accuracy:.3f}" if family in summary.families else "" for family in shown]
        rows.append(row)
    return _table(head, rows)


def _opening(runs: Sequence[FoundRun], shown: Trajectories) -> list[int]:
    """The sets that the viewer opens on: the last run's evaluation, and that of the run before it, if there is one."""
    folders = [str(run.main.folder) for run in runs if run.evaluations]
    numbers = {one["folder"]: number for number, one in enumerate(shown.sets)}
    return [numbers[folder] for folder in reversed(folders[-2:])]


def _differences(compared: Compared) -> list[str]:
    """The tables of differences between runs and within them."""
    parts = []
    if pairs := [pair for pair in compared.between if pair in compared.results]:
        parts += ["<h2>Differences</h2>", _table(DIFFERENCE_HEAD, [_difference(pair, compared) for pair in pairs])]
        for pair in pairs:
            if changed := "; ".join(compared.results[pair]["changed_settings"]):
                text = f"{pair.name_a} and {pair.name_b} were evaluated under different settings: {changed}"
                parts.append(f'<p class="quiet">{html.escape(text)}</p>')
    if rows := [_difference(pair, compared) for pair in compared.within if pair in compared.results]:
        remark = "Each run against itself with something taken away or forced: the difference is what that was worth."
        parts += ["<h2>Does it look?</h2>", f'<p class="quiet">{remark}</p>', _table(DIFFERENCE_HEAD, rows)]
    return parts + [f"<p class=quiet>{html.escape(message)}</p>" for message in compared.skipped]


DIFFERENCE_HEAD = ("from", "to", "n", "accuracy", "difference", "95% interval", "p", "p, adjusted", "gained", "lost")


def _difference(pair: Pair, compared: Compared) -> list[Any]:
    """The row of a comparison."""
    result = compared.results[pair]
    low, high = result["interval"]
    return [
        pair.name_a,
        pair.name_b,
        result["n"],
        f"{result['accuracy_a']:.3f} → {result['accuracy_b']:.3f}",
        f"{result['difference']:+.3f}",
        f"{low:+.3f} to {high:+.3f}",
        f"{result['p_value']:.2g}",
        f"{result['p_adjusted']:.2g}",
        result["flips"]["gained"],
        result["flips"]["lost"],
    ]


def from_markdown(text: str) -> Iterator[str]:
    """Tables and paragraphs of a text that a command prints."""
    for block in text.split("\n\n"):
        if block.startswith("|"):
            head, _, *rows = map(cells_of, block.splitlines())
            yield _table(head, rows)
        elif block.strip():
            yield f'<p class="quiet">{html.escape(block.strip())}</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, the baseline first")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the page (default: report.html)")
    parser.add_argument("--max_image_px", type=at_least_one, default=480, help="longer side of the pictures in it")
    parser.add_argument(
        "--max_pictures", type=at_least_one, default=1000, metavar="N",
        help="of an evaluation with more than N pictures the viewer shows questions drawn at random (default: 1000); "
        "tables and plots are of all questions, and `fovea view RUN` shows all",
    )  # fmt: skip
    parser.add_argument(
        "--max_training_groups", type=at_least_one, default=40, help="groups of rollouts shown of each training"
    )
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    parts = report(
        args.runs,
        max_image_px=args.max_image_px,
        max_pictures=args.max_pictures,
        max_training_groups=args.max_training_groups,
    )
    with replacing(args.output) as file:
        file.writelines(map(encodable, parts))
    print(f"written to {args.output} ({args.output.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    main()
