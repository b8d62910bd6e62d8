"""Chains that passed their checks, written as tasks, as traces of an environment, and as a run to be viewed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator

from environments.arguments import EpisodeArguments
from environments.factories import box_frame, environment_factory
from environments.play import play
from environments.policies.chain_oracle import make_oracle
from environments.seats import TaskNotShown
from environments.traces import trace_record, unfit
from fovea.data.references import kind_of_text
from fovea.data.task_files import load_tasks, save_tasks
from fovea.images import ImageError
from fovea.models.loading import load_outline
from fovea.placeholders import label_images
from fovea.runs.records import SAMPLES, Sample, append
from fovea.tasks import Task
from synthesis.agent.roles import COSTS_HEAD, cost_row
from synthesis.chains.building import Builder
from synthesis.chains.checking import read_problems


def tasks_of(builder: Builder) -> Iterator[Task]:
    """The final questions of the chains that passed every check, with their chains in the metadata."""
    drafts = builder.drafts()
    for key, problems in builder.stages["look"].values(drafts, read_problems):
        album, draft = drafts[key]
        if problems:
            continue
        relations = [[link.first, link.second, link.relation.to_json()] for link in album.links]
        metadata = {
            "family": " and ".join(sorted({link.relation.kind.value for link in album.links})),
            "num_images": len(album.pictures),
            "needs_zoom": False,
            "relations": relations,
            **draft.chain.metadata(),
        }
        answer = draft.chain.answer
        yield Task(
            f"chain-{key[:12]}", tuple(str(builder.pool.pictures[picture]) for picture in album.pictures),
            label_images(draft.question, len(album.pictures)), answer, kind_of_text(answer),
            source="synthesis.chains", metadata=metadata,
        )  # fmt: skip


def write(builder: Builder, episodes: EpisodeArguments) -> str:
    """Writes tasks, traces.jsonl, samples.jsonl and summary.md below the folder. Returns the summary."""
    folder, arguments = builder.folder, builder.arguments
    save_tasks(tasks_of(builder), folder / "tasks")
    model = load_outline(arguments.model_name_or_path, min_pixels=arguments.min_pixels, max_pixels=arguments.max_pixels)
    oracle = make_oracle(episodes.environment, box_frame(episodes, model))
    factory = environment_factory(episodes, model)
    tasks = load_tasks(folder / "tasks") if (folder / "tasks" / "tasks.jsonl").stat().st_size else []
    (folder / SAMPLES).unlink(missing_ok=True)
    unfit_for = Counter[str]()
    with (folder / "traces.jsonl").open("w") as file:
        for task in tasks:
            try:
                [episode] = play(oracle, [task], environment_factory=factory, limits=episodes.limits())
            except (ImageError, TaskNotShown) as error:
                unfit_for[f"not shown, {error.__cause__ or error}"] += 1
                continue
            if reason := unfit(episode):
                unfit_for[reason] += 1
                continue
            file.write(json.dumps(trace_record(episode, folder, name=task.id)) + "\n")
            sample = Sample.of(episode, family=task.family, score=1.0, why="the chain's own answer")
            append(folder / SAMPLES, [sample])
    text = summary(builder, len(tasks) - unfit_for.total(), unfit_for)
    (folder / "summary.md").write_text(text + "\n")
    return text


def summary(builder: Builder, num_traces: int, unfit_for: Counter[str]) -> str:
    """Markdown tables of the yield of each stage, the reasons for the rest, and the costs of each role."""
    pool, profiles, pairs = builder.pool, builder.profiles(), builder.pairs()
    edges, relations, albums = builder.edges(), builder.relations(), builder.albums()
    drafts = builder.drafts()
    checked = [problems for _, problems in builder.stages["look"].values(drafts, read_problems)]
    num_all = len(profiles) * (len(profiles) - 1) // 2
    kinds = Counter(relation.kind.value for _, relation in relations.values())
    rows = [
        ("pictures", f"{len(pool.pictures)} ({len(pool.alike)} like another, {len(pool.broken)} broken)"),
        ("profiles", len(profiles)),
        ("pairs asked about", f"{len(pairs)} of {num_all} ({len(pairs) / max(1, num_all):.1%})"),
        ("pairs connected", len(edges)),
        (
            "pairs related",
            ", ".join([str(len(relations)), *(f"{count} {kind}" for kind, count in kinds.most_common())]),
        ),
        ("paths", len(albums)),
        ("chains", len(drafts)),
        ("chains that passed", sum(not problems for problems in checked)),
        ("traces", num_traces),
    ]
    lines = [f"\n{num_traces} traces of {len(albums)} paths\n", "| stage | came of it |", "|---|---|"]
    lines += [f"| {name} | {number} |" for name, number in rows]
    reasons = Counter[str]()
    keys: dict[str, Iterable[str]] = {
        "extract": builder.stages["extract"].lines, "connect": pairs, "annotate": edges, "ask": albums, "look": drafts,
    }  # fmt: skip
    for name, stage in builder.stages.items():
        reasons.update({f"{name}: {reason}": count for reason, count in stage.reasons(keys[name]).items()})
    reasons.update(f"check: {problems[0].partition(':')[0]}" for problems in checked if problems)
    reasons.update({f"trace: {reason}": count for reason, count in unfit_for.items()})
    if reasons:
        lines += ["\n| left out | times |", "|---|---|"]
        lines += [f"| {reason} | {count} |" for reason, count in reasons.most_common()]
    costs = [cost_row(name, stage.usage(), num_traces) for name, stage in builder.stages.items()]
    lines += [COSTS_HEAD, *costs]
    return "\n".join(lines)
