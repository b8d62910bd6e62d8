"""The `fovea` command: a table of dotted paths, imported when called."""

from __future__ import annotations

import sys

from fovea.plugins import load_object

COMMANDS = {
    "sft": ("sft.train_sft:main", "SFT on traces, in one process; in several: accelerate launch -m sft.train_sft"),
    "grpo": ("rl.train_grpo:main", "GRPO on tasks, in one process; in several: accelerate launch -m rl.train_grpo"),
    "eval": ("evaluation.evaluate:main", "play a checkpoint on tasks and score it"),
    "analyse attention": ("evaluation.attention:main", "measure where a checkpoint's visual tokens look, by layer"),
    "analyse consistency": (
        "evaluation.consistency:main",
        "how often answers stay when only the order of images or options changes",
    ),
    "analyse edits": ("evaluation.edits:main", "how often answers follow an edited picture"),
    "analyse episodes": ("evaluation.behaviour:main", "count how episodes go: calls, hits, recovery, constant answers"),
    "analyse pooling": ("evaluation.pooling:main", "evaluate a checkpoint with fewer visual tokens an image"),
    "compare": ("evaluation.compare:main", "compare evaluations question by question"),
    "report": ("evaluation.report:main", "one page about runs: tables, plots, every trajectory"),
    "view": ("evaluation.view:main", "look at the trajectories of a run, also while it trains"),
    "doctor": ("doctor.command:main", "check a training before it starts"),
    "rescore": ("evaluation.rescore:main", "what other rewards would have paid the episodes of a run"),
    "rewards": ("rewards.check:main", "run a reward over episodes made to be told apart"),
    "merge": ("fovea.models.merge:main", "merge an adapter into its base"),
    "traces": ("synthesis.oracle_traces:main", "write cold-start traces of tasks with boxes, or of procedural scenes"),
    "traces agent": (
        "synthesis.agent.command:main",
        "write cold-start traces by a visual agent of models and functions",
    ),
    "traces chains": (
        "synthesis.chains.command:main",
        "write chains of sub-questions over several pictures, in five stages",
    ),
    "traces own": ("evaluation.harvest:main", "write traces of the successes in a run, without a model"),
    "tasks": ("synthesis.shapes.tasks:main", "write tasks on procedural scenes"),
    "tasks albums": ("synthesis.shapes.albums:main", "write tasks on several procedural scenes at once"),
    "tasks mimic": (
        "synthesis.mimic.command:main",
        "write MIMIC's questions over annotated pictures: count, list, the common, the odd",
    ),
    "tasks openimages": (
        "synthesis.mimic.openimages:main",
        "write such questions, at most 10 images each, over OpenImages' boxes",
    ),
    "tasks collage": ("synthesis.collage:main", "pack the pictures of any questions until a zoom is needed"),
    "tasks edited": ("synthesis.edited:main", "change in pictures what was asked about, and know the new right answer"),
    "tasks varied": ("synthesis.varied:main", "reorder images and options, add a distractor: the right answer stays"),
    "data tasks": ("synthesis.checks.tasks:main", "load a file of tasks, count its rows by kind, name what is wrong"),
    "data check": ("synthesis.checks.command:main", "find what is wrong with a file of traces"),
    "data convert": ("synthesis.convert:main", "turn anyone's traces into a cold start for your model"),
    "data join": ("synthesis.joining:main", "put the shards of a job array together"),
    "data mix": ("synthesis.mixing:main", "mix traces or tasks without duplicates and without benchmark pictures"),
    "gate": ("synthesis.tiny.gate:main", "measure what the tiny base can find and read"),
    "check-env": ("environments.check:main", "check an environment of your own"),
}


def main() -> None:
    """Runs the command named by the first word, or by the first two; without one, lists them."""
    words = sys.argv[1:] or ["--help"]
    if words[0] in ("-h", "--help"):
        print("usage: fovea COMMAND [options]; fovea COMMAND --help tells more\n")
        for command, (_, summary) in COMMANDS.items():
            print(f"  {command:14s} {summary}")
        return
    name = next((" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in COMMANDS), None)
    if name is None:
        raise SystemExit(f"fovea has no command {words[0]!r}: use one of {', '.join(COMMANDS)}")
    sys.argv = [f"fovea {name}", *words[len(name.split()) :]]
    load_object(COMMANDS[name][0])()


if __name__ == "__main__":
    main()
