"""Is B better than A? `fovea compare A B [C …] --json PATH` pairs evaluations question by question.

Each is a folder written by `fovea eval`, a run's folder that holds one, or one that holds an evaluation for each of
several benchmarks. Several in one word are training seeds of one recipe ('runs/learning/*/rl/evaluation'). A difference
is the later minus the earlier one, with a 95% interval. Of one seed each, it and the p-value speak of these two
checkpoints: of verdicts an adjusted Wald interval and McNemar's exact test, of scores in between a bootstrap and a
permutation test. Of several seeds they speak of the recipes, over questions and seeds. p-values are also given adjusted
for their number in one command (Holm). Questions that ask the same several times (HR-Bench's rotations) are averaged
first, and n counts them once. `lost` and `gained` name the questions. On the frontier is what no other run
beats with as few tokens in all, prompts and crops included. Folders of `fovea eval --arms` are compared with the tool,
and what it did is split into gains and harms of its calls and of its description.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluation import split
from evaluation.evaluated import Evaluated, difference, load, refuse_other_questions
from evaluation.markdown import in_all_and_by_family, markdown_row
from evaluation.summary import accuracy_of
from fovea.commands import from_zero, plain_parser
from fovea.runs.records import read_run
from fovea.statistics import holm


def compare_pair(a: Evaluated, b: Evaluated, *, seed: int = 0) -> dict[str, Any]:
    """B against A, in all and by family.

    Raises:
        ValueError: if they hold different questions, or fewer than two.
    """
    ids = sorted(a.families)
    refuse_other_questions(a, b)
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} questions are too few to compare: use at least 2")
    by_family = defaultdict(list)
    for id in ids:
        by_family[a.families[id]].append(id)
        if id in a.parts:
            by_family[a.parts[id]].append(id)
    clusters = {**a.clusters, **b.clusters}  # those of version 0.1 know none

    def gap(some: Sequence[str]) -> dict[str, Any]:
        return difference(a.clustered(some, clusters), b.clustered(some, clusters), seed=seed)

    gaps = b.scores(ids).mean(0) - a.scores(ids).mean(0)
    return {
        "a": a.name,
        "b": b.name,
        **gap(ids),
        "families": {family: gap(family_ids) for family, family_ids in sorted(by_family.items())},
        "gained": [id for id, change in zip(ids, gaps, strict=True) if change > 0],
        "lost": [id for id, change in zip(ids, gaps, strict=True) if change < 0],
    }


BESIDE_THE_POINT = {"image_cache_gib", "output_dir", "model_name_or_path", "batch_size", "seed", "device", "dtype"}
"""Settings in which evaluations may differ and be compared."""


def changed_settings(evaluations: Sequence[Evaluated]) -> list[str]:
    """Settings in which evaluations differ beside what was evaluated, as `name: value, value, …`.

    Those of all seeds and benchmarks count: `4 / 8` is a setting that is not the same in all of them. A setting that
    an older version did not have is None, and an evaluation without any settings is not known to differ. Questions
    whose images, options or bounds on views differ are counted with them.
    """
    settings = [[read_run(folder).chosen("evaluation", "episodes") for folder in one.folders] for one in evaluations]
    known = [kept for of_one in settings if (kept := [chosen for chosen in of_one if chosen])]
    names = {name for of_one in known for chosen in of_one for name in chosen} - BESIDE_THE_POINT
    values_by_name = {
        name: [" / ".join(sorted({str(chosen.get(name)) for chosen in of_one})) for of_one in known]
        for name in sorted(names)
    }
    changed = [f"{name}: {', '.join(values)}" for name, values in values_by_name.items() if len(set(values)) > 1]
    if number := _num_shown_otherwise(evaluations):
        changed.append(f"questions whose images, options or view size differ: {number}")
    return changed


def _num_shown_otherwise(evaluations: Sequence[Evaluated]) -> int:
    """The questions whose hashes are not the same in all seeds of all evaluations, as far as they are known."""
    hashes: dict[str, set[str | None]] = defaultdict(set)
    for seed in (seed for evaluation in evaluations for seed in evaluation.seeds):
        for id, samples in seed.items():
            hashes[id] |= {samples[0].task_hash} - {None}
    return sum(len(of_one) > 1 for of_one in hashes.values())


def compare(*patterns: str | Path, seed: int = 0, rule: str | None = None) -> dict[str, Any]:
    """All evaluations and all pairs of them, p-values also adjusted for their number, families' included.

    Raises:
        ValueError: if they hold different questions, or fewer than two.
    """
    evaluations = [load(pattern, rule=rule) for pattern in patterns]
    pairs = [compare_pair(a, b, seed=seed) for a, b in combinations(evaluations, 2)]
    parts = [(pair, part) for pair in pairs for part in pair["families"].values()]
    whole = [(pair, part) for pair, part in parts if part["n"] == pair["n"]]  # the same test once more
    tests = [*pairs, *(part for pair, part in parts if part["n"] < pair["n"])]
    for test, adjusted in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
        test["p_adjusted"] = adjusted
    for pair, part in whole:
        part["p_adjusted"] = pair["p_adjusted"]
    runs = {evaluation.name: evaluation.summary() for evaluation in evaluations}
    are_known = all("context_tokens" in run for run in runs.values())
    for run in runs.values():
        run["on_frontier"] = are_known and not any(
            other_run["accuracy"] >= run["accuracy"]
            and other_run["context_tokens"] <= run["context_tokens"]
            and (other_run["accuracy"], other_run["context_tokens"]) != (run["accuracy"], run["context_tokens"])
            for other_run in runs.values()
        )
    comparison = {"runs": runs, "pairs": pairs, "changed_settings": changed_settings(evaluations)}
    if rule is not None and not all(_has_published_mean(evaluation, rule) for evaluation in evaluations):
        comparison["rule"] = rule
    if all(map(split.has_arms, patterns)):
        comparison["split"] = split.split(*patterns, seed=seed, rule=rule)
    return comparison


def _has_published_mean(evaluation: Evaluated, rule: str) -> bool:
    """Returns True if the mean over questions is the benchmark's own; some average over families or over all lists."""
    samples = [sample for seed in evaluation.seeds for of_one in seed.values() for sample in of_one]
    return isclose(accuracy_of(samples).rules[rule], fmean(sample.score for sample in samples), abs_tol=1e-9)


def table(comparison: dict[str, Any]) -> str:
    """The comparison as Markdown tables."""
    max_samples = max(run["num_samples"] for run in comparison["runs"].values())
    pass_head = f" pass@{max_samples} |" if max_samples > 1 else ""
    lines = [
        f"| run | n | seeds | accuracy | 95% interval |{pass_head} tokens written | of images | in all | zooms "
        "| seconds | on the frontier |",
        "|---|---|---|---|---|---|---|---|---|---|---|" + ("---|" if pass_head else ""),
    ]
    for name, run in comparison["runs"].items():
        low, high = run["interval"]
        cells = [name, run["n"], run["num_seeds"], f"{run['accuracy']:.3f}", f"{low:.3f}-{high:.3f}"]
        cells += [f"{run['pass_at_k'].get(max_samples, float('nan')):.3f}"] if pass_head else []
        of_images, in_all = (f"{run[name]:.0f}" if name in run else "" for name in ("image_tokens", "context_tokens"))
        seconds = f"{run['seconds']:.3g}" if "seconds" in run else ""
        cells += [f"{run['tokens']:.0f}", of_images, in_all, f"{run['zooms']:.2f}", seconds]
        lines.append(markdown_row([*cells, "yes" if run["on_frontier"] else ""]))
    if any(run["on_frontier"] for run in comparison["runs"].values()):
        lines.append("\non the frontier: no other run here is as accurate at a lower cost")
    if settings := {run["played_by"] for run in comparison["runs"].values() if "played_by" in run}:
        lines.append(f"\nseconds an episode by {'; '.join(sorted(settings))}")
    for pair in comparison["pairs"]:
        lines += [
            f"\nA = {pair['a']}, B = {pair['b']}\n",
            "| family | n | A | B | B - A | 95% interval | p | p, adjusted | gained | lost |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for name, family in in_all_and_by_family(pair, pair["families"]).items():
            low, high = family["interval"]
            numbers = f"{family['accuracy_a']:.3f}", f"{family['accuracy_b']:.3f}", f"{family['difference']:+.3f}"
            tests = f"{low:+.3f} to {high:+.3f}", f"{family['p_value']:.2g}", f"{family['p_adjusted']:.2g}"
            flips = family["flips"]["gained"], family["flips"]["lost"]
            lines.append(markdown_row([name, family["n"], *numbers, *tests, *flips]))
    if "rule" in comparison:
        lines.append(f"\nby {comparison['rule']}: mean over questions, not the published mean")
    if comparison["changed_settings"]:
        changed = "; ".join(comparison["changed_settings"])
        lines.append(f"\nevaluated under different settings: {changed} (evaluate both with the same --config)")
    if "split" in comparison:
        lines.append(f"\n{split.table(comparison['split'])}")
    return "\n".join(lines)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of evaluations, the baseline first")
    parser.add_argument("--json", type=Path, help="write the result here; a .md with the tables goes beside it")
    parser.add_argument("--rule", help="score by this rule: strict, vlmevalkit, lmms-eval, mimic or mimic-corrected")
    parser.add_argument("--seed", type=from_zero, default=0, help="seed of the bootstrap")
    args = parser.parse_args()
    if len(args.runs) < 2:
        parser.error("name at least two evaluations")
    try:
        comparison = compare(*args.runs, seed=args.seed, rule=args.rule)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(table(comparison))
    if args.json:
        write(comparison, args.json)


def write(comparison: dict[str, Any], path: Path) -> None:
    """Writes a comparison as JSON, and its tables as Markdown beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(comparison, indent=2) + "\n")
    path.with_suffix(".md").write_text(table(comparison) + "\n")


if __name__ == "__main__":
    main()
