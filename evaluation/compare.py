"""Is B better than A? `fovea compare A B --json PATH` pairs two evaluations question by question.

A and B are folders written by `fovea eval`. The difference is B minus A, with a seeded bootstrap interval over
questions and McNemar's exact test on the questions whose verdict flipped.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from fovea.runs import read_jsonl
from fovea.statistics import mcnemar, paired_bootstrap


def load_scores(folder: str | Path) -> dict[str, tuple[str, float]]:
    """Family and mean score by question id.

    Raises:
        SystemExit: if the folder holds no samples.jsonl.
    """
    path = Path(folder) / "samples.jsonl"
    if not path.exists():
        raise SystemExit(f"{path} does not exist: run `fovea eval … --output_dir {folder}` first")
    scores = defaultdict(list)
    families = {}
    for row in read_jsonl(path):
        scores[row["id"]].append(row["score"])
        families[row["id"]] = row["family"]
    return {name: (families[name], fmean(values)) for name, values in scores.items()}


def compare_scores(a: np.ndarray, b: np.ndarray, *, seed: int) -> dict[str, Any]:
    """The comparison of two paired score arrays [n]."""
    difference = b - a
    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    return {
        "n": len(a),
        "accuracy_a": float(a.mean()),
        "accuracy_b": float(b.mean()),
        "difference": float(difference.mean()),
        "interval": list(paired_bootstrap(difference, seed=seed)),
        "p_value": mcnemar(lost, gained),
        "flips": {"gained": gained, "lost": lost},
    }


def compare(folder_a: str | Path, folder_b: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """The comparison of two evaluations, in all and by family.

    Raises:
        ValueError: if they hold different questions, or fewer than two.
    """
    a, b = load_scores(folder_a), load_scores(folder_b)
    if a.keys() != b.keys():
        only_a, only_b = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
        raise ValueError(
            f"the evaluations hold different questions: {len(only_a)} only in {folder_a} {only_a[:3]}, "
            f"{len(only_b)} only in {folder_b} {only_b[:3]}: evaluate both on the same tasks"
        )
    if len(a) < 2:
        raise ValueError(f"{len(a)} questions are too few to compare: use at least 2")
    names = sorted(a)

    def part(chosen: list[str]) -> dict[str, Any]:
        pair = (np.array([scores[name][1] for name in chosen]) for scores in (a, b))
        return compare_scores(*pair, seed=seed)

    families = sorted({a[name][0] for name in names})
    by_family = {family: part([name for name in names if a[name][0] == family]) for family in families}
    return {"a": str(folder_a), "b": str(folder_b), **part(names), "families": by_family}


def table(result: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    lines = [
        f"A = {result['a']}, B = {result['b']}",
        "",
        "| family | n | A | B | B - A | 95% interval | p | gained | lost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, part in {"all": result, **result["families"]}.items():
        low, high = part["interval"]
        numbers = f"{part['accuracy_a']:.3f} | {part['accuracy_b']:.3f} | {part['difference']:+.3f}"
        flips = f"{part['flips']['gained']} | {part['flips']['lost']}"
        lines.append(
            f"| {name} | {part['n']} | {numbers} | {low:+.3f} to {high:+.3f} | {part['p_value']:.2g} | {flips} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", help="folder of the first evaluation")
    parser.add_argument("b", help="folder of the second")
    parser.add_argument("--json", type=Path, help="write the result here; a .md with the table goes beside it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    args = parser.parse_args()
    try:
        result = compare(args.a, args.b, seed=args.seed)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(table(result))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
        args.json.with_suffix(".md").write_text(table(result) + "\n")


if __name__ == "__main__":
    main()
