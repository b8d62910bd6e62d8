"""Draws what `benchmarks.grpo` wrote: `python -m benchmarks.plot_grpo runs/speed/*.json --output docs/speed.svg`.

A panel each for the number of prompt tokens, completion tokens and generations, with the runs that differ in that alone
from the first file. Needs matplotlib.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fovea.commands import plain_parser

AXES = {
    "prompt_tokens": "prompt tokens P",
    "completion_tokens": "completion tokens C",
    "num_generations": "generations G",
}
COLORS = {"loss": "tab:blue", "rollout": "tab:orange", "step": "tab:green"}


def along(results: list[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    """The results that differ from the first in `axis` alone, in its order; the first is one of them."""
    fixed = [name for name in (*AXES, "size") if name != axis]
    chosen = [result for result in results if all(result[name] == results[0][name] for name in fixed)]
    return sorted(chosen, key=lambda result: result[axis])


def draw(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(AXES), figsize=(12, 3.6), sharey=True)
    for panel, (axis, label) in zip(panels, AXES.items(), strict=True):
        chosen = along(results, axis)
        for stage, color in COLORS.items():
            measured = [result for result in chosen if stage in result]
            where = [result[axis] for result in measured]
            ratios = [result[stage]["time_ratio"] for result in measured]
            middle = [ratio["median"] for ratio in ratios]
            spread = [[m - r["min"] for m, r in zip(middle, ratios, strict=True)],
                      [r["max"] - m for m, r in zip(middle, ratios, strict=True)]]  # fmt: skip
            panel.errorbar(where, middle, yerr=spread, color=color, marker="o", capsize=3, label=stage)
            panel.plot(where, [result[stage]["bound"] for result in measured], color=color, linestyle=":")
        panel.set_xlabel(label)
        panel.set_xscale("log", base=2)
        ticks = [result[axis] for result in chosen]
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("times faster than stock TRL")
    panels[0].set_ylim(bottom=0)
    panels[-1].legend(title="dotted: limit")
    figure.suptitle(results[0]["size"])
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="the first is the one that the others differ from")
    parser.add_argument("--output", type=Path, default=Path("docs/speed.svg"))
    args = parser.parse_args()
    draw([json.loads(path.read_text()) for path in args.results], args.output)


if __name__ == "__main__":
    main()
