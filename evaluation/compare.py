"""Is B better than A? `fovea compare A B [C …] --json PATH` pairs evaluations question by question.

Each is a folder written by `fovea eval`, a run's folder that holds one, or one that holds an evaluation for each of
several benchmarks. Several in one word are training seeds of one recipe ('runs/learning/*/rl/evaluation'). A difference
is the later minus the earlier one, with a 95% interval. Of one seed each, it and the p-value speak of these two
checkpoints: of verdicts an adjusted Wald interval and McNemar's exact test, of scores in between a bootstrap and a
permutation test. Of several seeds they speak of the recipes, over questions and seeds. p-values are also given adjusted
for their number in one command (Holm). `lost` and `gained` name the questions. On the frontier is what no other run
beats with as few tokens in all, prompts and crops included.
"""

from __future__ import annotations

import argparse
import glob
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from evaluation.discover import OWN, evaluations_to_compare
from evaluation.summary import image_tokens
from fovea.runs.records import Sample, read_run, read_samples
from fovea.statistics import (
    crossed_interval,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_interval,
    pass_at_k,
    sign_flip,
    wilson_interval,
)


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint's evaluation, or those of several seeds of one recipe: `seeds[s][id]` are a question's samples.

    Where it stands for several benchmarks, `parts[id]` is the benchmark of a question.
    """

    name: str
    folders: tuple[Path, ...]
    seeds: tuple[dict[str, list[Sample]], ...]
    parts: Mapping[str, str]

    @cached_property
    def families(self) -> dict[str, str]:
        """Family by question id."""
        return {id: samples[0].family for id, samples in self.seeds[0].items()}

    def scores(self, ids: Sequence[str]) -> np.ndarray:
        """Mean scores [seeds, questions]."""
        return np.array([[fmean(sample.score for sample in seed[id]) for id in ids] for seed in self.seeds])

    def summary(self) -> dict[str, Any]:
        """Accuracy, pass@k where there are samples, and what it cost."""
        ids = list(self.families)
        questions = [samples for seed in self.seeds for samples in seed.values()]
        samples = [sample for question in questions for sample in question]
        min_samples = min(map(len, questions))
        correct_counts = [(len(question), sum(sample.score == 1 for sample in question)) for question in questions]
        means = self.scores(ids)
        low, high = wilson_interval(round(float(means.mean(0).sum())), len(ids))
        if len(self.seeds) > 1 and len(ids) > 1:
            low, high, _ = crossed_interval(np.zeros((1, len(ids))), means)
        return {
            "n": len(ids),
            "num_seeds": len(self.seeds),
            "accuracy": float(means.mean()),
            "interval": [low, high],
            "accuracy_by_seed": means.mean(1).tolist(),
            "num_samples": min_samples,
            "pass_at_k": {k: fmean(pass_at_k(*counts, k) for counts in correct_counts) for k in _powers(min_samples)},
            "tokens": fmean(sample.num_tokens for sample in samples),
            "context_tokens": fmean(sample.context_tokens for sample in samples),
            "zooms": fmean(sample.num_zooms for sample in samples),
            **({} if (number := image_tokens(samples)) is None else {"image_tokens": number}),
        }


def _powers(maximum: int) -> list[int]:
    """1, 2, 4, … up to `maximum`, itself included."""
    return sorted({2**exponent for exponent in range(maximum.bit_length()) if 2**exponent <= maximum} | {maximum})


def load(pattern: str | Path, *, rule: str | None = None) -> Evaluated:
    """The evaluation in a folder, or those in all folders that a pattern finds; by a published `rule` if one is named.

    Raises:
        SystemExit: if there is none.
    """
    folders = [Path(name) for name in sorted(glob.glob(str(pattern)))] or [Path(pattern)]
    seed_evaluations = [evaluations_to_compare(folder) for folder in folders]
    seeds: list[dict[str, list[Sample]]] = []
    benchmarks_by_id: dict[str, str] = {}
    for evaluations in seed_evaluations:
        samples = defaultdict(list)
        for benchmark, folder in evaluations.items():
            for sample in _scored(folder, rule):
                if benchmark != OWN:
                    family = f"{benchmark}: {sample.family}"
                    sample = replace(sample, task_id=f"{benchmark}/{sample.task_id}", family=family)
                    benchmarks_by_id[sample.task_id] = benchmark
                samples[sample.task_id].append(sample)
        seeds.append(dict(samples))
    evaluation_folders = tuple(folder for evaluations in seed_evaluations for folder in evaluations.values())
    return Evaluated(str(pattern), evaluation_folders, tuple(seeds), benchmarks_by_id)


def _scored(folder: Path, rule: str | None) -> Iterator[Sample]:
    """The samples of a folder, scored by a published rule if one is named."""
    for sample in read_samples(folder):
        if rule is not None and rule not in sample.scores:
            rules = ", ".join(sample.scores or ["strict"])
            raise SystemExit(f"{folder} has no verdicts by {rule!r}, but by {rules}")
        yield sample if rule is None else replace(sample, score=sample.scores[rule])


def difference(a: np.ndarray, b: np.ndarray, *, seed: int) -> dict[str, Any]:
    """The comparison of scores [seeds, questions] of the same questions."""
    gaps = b.mean(0) - a.mean(0)
    gained, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    if len(gaps) < 2:
        low, high, p_value = -1.0, 1.0, 1.0  # one question tells nothing
    elif max(len(a), len(b)) > 1:
        low, high, p_value = crossed_interval(a, b)
    elif set(np.abs(gaps)) <= {0.0, 1.0}:
        low, high = paired_interval(lost, gained, len(gaps))
        p_value = mcnemar(lost, gained)
    else:
        low, high = paired_bootstrap(gaps, seed=seed)
        p_value = sign_flip(gaps, seed=seed)
    return {
        "n": len(gaps),
        "accuracy_a": float(a.mean()),
        "accuracy_b": float(b.mean()),
        "difference": float(gaps.mean()),
        "interval": [low, high],
        "p_value": p_value,
        "flips": {"gained": gained, "lost": lost},
    }


def compare_pair(a: Evaluated, b: Evaluated, *, seed: int = 0) -> dict[str, Any]:
    """B against A, in all and by family.

    Raises:
        ValueError: if they hold different questions, or fewer than two.
    """
    ids = sorted(a.families)
    _refuse_other_questions(a, b)
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} questions are too few to compare: use at least 2")
    by_family = defaultdict(list)
    for id in ids:
        by_family[a.families[id]].append(id)
        if id in a.parts:
            by_family[a.parts[id]].append(id)
    gaps = b.scores(ids).mean(0) - a.scores(ids).mean(0)
    return {
        "a": a.name,
        "b": b.name,
        **difference(a.scores(ids), b.scores(ids), seed=seed),
        "families": {
            family: difference(a.scores(family_ids), b.scores(family_ids), seed=seed)
            for family, family_ids in sorted(by_family.items())
        },
        "gained": [id for id, change in zip(ids, gaps, strict=True) if change > 0],
        "lost": [id for id, change in zip(ids, gaps, strict=True) if change < 0],
    }


def _refuse_other_questions(a: Evaluated, b: Evaluated) -> None:
    """Raises ValueError unless all seeds of both hold the same questions."""
    seeds = (*a.seeds, *b.seeds)
    for seed in seeds:
        if seed.keys() != a.seeds[0].keys():
            only_a, only_b = sorted(a.seeds[0].keys() - seed.keys()), sorted(seed.keys() - a.seeds[0].keys())
            raise ValueError(
                f"the evaluations hold different questions: {len(only_a)} only in {a.name} {only_a[:3]}, "
                f"{len(only_b)} only in {b.name} {only_b[:3]}: evaluate both on the same tasks"
            )
    for id in a.families:
        wordings = {(seed[id][0].question, str(seed[id][0].reference)) for seed in seeds}
        if len(wordings) > 1:
            raise ValueError(f"question {id} is not the same in both evaluations: evaluate both on the same tasks")


BESIDE_THE_POINT = {"image_cache_gib", "output_dir", "model_name_or_path", "batch_size", "seed", "device", "dtype"}
"""Settings in which evaluations may differ and be compared."""


def changed_settings(evaluations: Sequence[Evaluated]) -> list[str]:
    """Settings in which evaluations differ beside what was evaluated, as `name: value, value, …`."""
    settings = [read_run(evaluation.folders[0]).chosen("evaluation", "episodes") for evaluation in evaluations]
    names = sorted(set.intersection(*map(set, settings)) - BESIDE_THE_POINT)
    values_by_name = {name: [str(run_settings[name]) for run_settings in settings] for name in names}
    return [f"{name}: {', '.join(values)}" for name, values in values_by_name.items() if len(set(values)) > 1]


def compare(*patterns: str | Path, seed: int = 0, rule: str | None = None) -> dict[str, Any]:
    """All evaluations and all pairs of them, p-values also adjusted for their number, families' included.

    Raises:
        ValueError: if they hold different questions, or fewer than two.
    """
    evaluations = [load(pattern, rule=rule) for pattern in patterns]
    pairs = [compare_pair(a, b, seed=seed) for a, b in combinations(evaluations, 2)]
    tests = [test for pair in pairs for test in (pair, *pair["families"].values())]
    for test, adjusted in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
        test["p_adjusted"] = adjusted
    runs = {evaluation.name: evaluation.summary() for evaluation in evaluations}
    for run in runs.values():
        run["on_frontier"] = not any(
            other_run["accuracy"] >= run["accuracy"]
            and other_run["context_tokens"] <= run["context_tokens"]
            and (other_run["accuracy"], other_run["context_tokens"]) != (run["accuracy"], run["context_tokens"])
            for other_run in runs.values()
        )
    return {"runs": runs, "pairs": pairs, "changed_settings": changed_settings(evaluations)}


def table(comparison: dict[str, Any]) -> str:
    """The comparison as Markdown tables."""
    max_samples = max(run["num_samples"] for run in comparison["runs"].values())
    pass_head = f" pass@{max_samples} |" if max_samples > 1 else ""
    lines = [
        f"| run | n | seeds | accuracy | 95% interval |{pass_head} tokens written | of images | in all | zooms "
        "| on the frontier |",
        "|---|---|---|---|---|---|---|---|---|---|" + ("---|" if pass_head else ""),
    ]
    for name, run in comparison["runs"].items():
        low, high = run["interval"]
        pass_cell = f" {run['pass_at_k'].get(max_samples, float('nan')):.3f} |" if pass_head else ""
        of_images = f"{run['image_tokens']:.0f}" if "image_tokens" in run else ""
        cost = f"{run['tokens']:.0f} | {of_images} | {run['context_tokens']:.0f} | {run['zooms']:.2f}"
        cost += f" | {'yes' if run['on_frontier'] else ''}"
        numbers = f"{run['n']} | {run['num_seeds']} | {run['accuracy']:.3f} | {low:.3f}-{high:.3f}"
        lines.append(f"| {name} | {numbers} |{pass_cell} {cost} |")
    for pair in comparison["pairs"]:
        lines += [
            f"\nA = {pair['a']}, B = {pair['b']}\n",
            "| family | n | A | B | B - A | 95% interval | p | p, adjusted | gained | lost |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for name, family in {"all": pair, **pair["families"]}.items():
            low, high = family["interval"]
            numbers = f"{family['accuracy_a']:.3f} | {family['accuracy_b']:.3f} | {family['difference']:+.3f}"
            tests = f"{low:+.3f} to {high:+.3f} | {family['p_value']:.2g} | {family['p_adjusted']:.2g}"
            flips = f"{family['flips']['gained']} | {family['flips']['lost']}"
            lines.append(f"| {name} | {family['n']} | {numbers} | {tests} | {flips} |")
    if comparison["changed_settings"]:
        lines.append(f"\nevaluated under different settings: {'; '.join(comparison['changed_settings'])}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of evaluations, the baseline first")
    parser.add_argument("--json", type=Path, help="write the result here; a .md with the tables goes beside it")
    parser.add_argument("--rule", help="score by this rule of a public benchmark: vlmevalkit or lmms-eval")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
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
