"""An evaluation: tasks played, scored and summarized, going on where a stopped one left off."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from tqdm import tqdm
from transformers import set_seed

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.play import ContinuousPolicy, play_each
from environments.policies.choice import make_policy
from environments.policies.forced import OPENINGS, ForcedPolicy
from environments.probes.direct import play_directly
from environments.probes.other_images import with_others
from environments.probes.tools import with_tools
from environments.seats import try_openings
from evaluation.arguments import EvaluationArguments
from evaluation.pace import Setting, note_pace
from evaluation.played import PARTS, num_written, played_already, put_in_order
from evaluation.samples import sample_of
from evaluation.summary import summarize
from fovea.arguments import said_in_a_line
from fovea.config import ConfigError
from fovea.data.identity import fingerprint
from fovea.episodes import Episode
from fovea.kernels.token_pooling import pooled_tokens
from fovea.models.loading import Model
from fovea.models.names import holds_model, weights_mark
from fovea.processes import process_state
from fovea.runs.directory import RunDirectory, changes
from fovea.runs.records import SAMPLES, Sample, Summary, append, read_run, read_samples, write_summary
from fovea.tasks import Task

Batch = tuple[int, int, list[Task]]
"""The number of its samples, the place of its first task, and its tasks."""


@dataclass(frozen=True)
class Player:
    """Plays tasks, and yields their episodes as they end.

    Where it is continuous, they do not wait for each other, come in any order, and it is given all tasks at once. With
    the tasks come the seeds of their sampling.
    """

    play: Callable[[Sequence[Task], Sequence[int]], Iterable[Episode]]
    is_continuous: bool = False


FREE_SETTINGS = re.compile(
    r"all_checkpoints|arms|batch_size|device|factors|image_cache_gib|max_tasks|max_minutes|num_samples|output_dir|view_sizes_px|vllm_.*|use_vllm"
)
"""Settings of an evaluation that may change when it goes on."""


def evaluate(model: Model, tasks: list[Task], arguments: EvaluationArguments, episodes: EpisodeArguments) -> Summary:
    """The summary; samples are appended to samples.jsonl, tasks that are there already are not played again.

    Raises:
        ConfigError: if there are no tasks, or the folder holds a model, a training, or an evaluation with other
            settings or of other questions.
    """
    check_asked(tasks, arguments)
    weights = None if arguments.openai_base_url else weights_mark(arguments.model_name_or_path)
    refuse_folder(arguments, episodes, weights)
    with said_in_a_line():
        try_openings(environment_factory(episodes, model), tasks)
    state = process_state()
    run = RunDirectory(arguments.output_dir)
    hashes = {task.id: fingerprint(task) for task in tasks}
    if state.is_main_process:
        put_in_order(run.path, hashes)
    state.wait_for_everyone()
    played = played_already(run.path, hashes, arguments.num_samples)
    is_known = not played or "weights" in run.settings()  # an older folder does not say whose its samples are
    if state.is_main_process:
        marked = {"mark": weights} if is_known and weights is not None else {}
        run.write_start(evaluation=arguments, episodes=episodes, weights=marked)
    if episodes.crops == "other":
        tasks = with_others(tasks)
    with pooled_tokens(model.network, arguments.token_pooling):
        player = make_player(model, arguments, episodes)
        with timed(run.path, arguments):
            play_missing(player, tasks, played, arguments, hashes)
    if state.is_main_process:
        put_in_order(run.path, hashes)
    state.wait_for_everyone()
    samples = read_samples(run.path)
    summary = summarize(samples, model=arguments.model_name_or_path, prompt=arguments.prompt, crops=episodes.crops)
    if state.is_main_process:
        write_summary(run.path, summary)
        if arguments.max_minutes is not None and len(samples) < len(tasks) * arguments.num_samples:
            print(
                f"stopped by --max_minutes after {len(samples)} of {len(tasks) * arguments.num_samples} episodes: the "
                "same command goes on"
            )
        if summary.rules:
            write_disagreements(run.path, samples)
    return summary


def setting_of(arguments: EvaluationArguments) -> Setting:
    """The engine and device that play an evaluation in this process."""
    if arguments.openai_base_url or arguments.vllm_server_base_url:
        engine, device = "endpoint" if arguments.openai_base_url else "vLLM server", "elsewhere"
    else:
        engine = "vLLM" if arguments.use_vllm else "Transformers"
        number = torch.get_num_threads()
        threads = f"CPU, {number} thread{'s' if number > 1 else ''}"
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else threads
    return Setting(engine, device, arguments.batch_size, process_state().num_processes)


@contextmanager
def timed(folder: Path, arguments: EvaluationArguments) -> Iterator[None]:
    """Notes how long all processes take inside the block, for as many samples as they write, interrupted or not."""
    state, started, before = process_state(), time.perf_counter(), num_written(folder)
    try:
        yield
        state.wait_for_everyone()
    finally:
        if state.is_main_process and (episodes := num_written(folder) - before) > 0:
            note_pace(folder, setting_of(arguments), episodes=episodes, seconds=time.perf_counter() - started)


def check_asked(tasks: Sequence[Task], arguments: EvaluationArguments) -> None:
    """Raises ConfigError without tasks, or for vLLM in several processes."""
    if not tasks:
        raise ConfigError("there are no tasks to evaluate on: look at --dataset_name and --max_tasks")
    if arguments.use_vllm and process_state().num_processes > 1:
        raise ConfigError(
            "vLLM takes several cards by itself: use one process and --vllm_engine_kwargs "
            """'{"tensor_parallel_size": 2}', or a server with --vllm_server_base_url"""
        )


def refuse_folder(arguments: EvaluationArguments, episodes: EpisodeArguments, weights: str | None = None) -> None:
    """Raises ConfigError if the output folder holds a model, a training, or an evaluation of another kind.

    That is one with other settings or, where `weights` are given, of other weights.
    """
    folder = Path(arguments.output_dir)
    before = read_run(folder).settings
    if holds_model(folder) or (before and "evaluation" not in before):
        raise ConfigError(f"{folder} holds a training: name {folder / 'evaluation'}")
    if not (folder / SAMPLES).exists() and not any(folder.glob(PARTS)):
        return
    if weights is not None and before.get("weights", {}).get("mark", weights) != weights:
        raise ConfigError(
            f"{folder} holds an evaluation of the weights that {arguments.model_name_or_path} had before it was "
            "trained anew: use another --output_dir, or delete it"
        )
    if changed := list(changes(before, {"evaluation": arguments, "episodes": episodes}, free=FREE_SETTINGS)):
        raise ConfigError(
            f"{folder} holds an evaluation with other settings ({'; '.join(changed)}): use another --output_dir, or "
            "delete it"
        )


def make_player(model: Model, arguments: EvaluationArguments, episodes: EpisodeArguments) -> Player:
    """Plays tasks as the arguments say: by the protocol or as bare questions, freely or forced."""
    renderer = None
    if not arguments.openai_base_url:
        renderer = make_renderer(
            episodes, model, token_pooling=arguments.token_pooling, pixel_pooling=arguments.pixel_pooling
        )
    policy = make_policy(arguments, model, renderer)
    factory = with_tools(environment_factory(episodes, model), arguments.tools)
    if arguments.prompt == "direct":
        system = model.default_system

        def ask(tasks: Sequence[Task], seeds: Sequence[int]) -> list[Episode]:
            return play_directly(
                policy,
                tasks,
                environment_factory=factory,
                renderer=renderer,
                max_tokens=episodes.max_tokens_per_turn,
                system=system,
                seeds=seeds,
            )

        return Player(ask)
    if renderer is not None and arguments.force != "nothing":
        policy = ForcedPolicy(policy, renderer, OPENINGS[arguments.force])
    limits = episodes.limits()

    def play(tasks: Sequence[Task], seeds: Sequence[int]) -> Iterator[Episode]:
        played = play_each(policy, tasks, environment_factory=factory, limits=limits, renderer=renderer,
                           batch_size=arguments.batch_size, seeds=seeds)  # fmt: skip
        return (episode for _, episode in played)

    return Player(play, isinstance(policy, ContinuousPolicy))


def play_missing(
    player: Player, tasks: Sequence[Task], played: set[tuple[str, int]], arguments: EvaluationArguments,
    hashes: Mapping[str, str],
) -> None:  # fmt: skip
    """Plays what is not there yet, batch by batch, and appends each episode to samples.jsonl as it ends.

    Of several processes each plays every so manieth of the batches that one would play, and appends to a part of its
    own. An episode's sampling goes by `seed_of`, however it is batched. When `max_minutes` are over what has not ended
    is left.
    """
    state, size = process_state(), arguments.batch_size
    file = SAMPLES if state.num_processes == 1 else PARTS.replace("*", str(state.process_index))
    path = Path(arguments.output_dir) / file
    total = len(tasks) * arguments.num_samples
    batches = [
        (number, start, missing[start : start + size])
        for number in range(arguments.num_samples)
        if (missing := [task for task in tasks if (task.id, number) not in played])
        for start in range(0, len(missing), size)
    ]
    mine = [batch for place, batch in enumerate(batches) if place % state.num_processes == state.process_index]
    if player.is_continuous:
        mine = [_joined(list(of_number)) for _, of_number in groupby(mine, key=itemgetter(0))]
    num_missing = sum(len(batch) for _, _, batch in batches)
    until = math.inf if arguments.max_minutes is None else time.monotonic() + 60 * arguments.max_minutes
    with tqdm(total=total, desc="episodes", initial=total - num_missing, disable=not state.is_main_process) as bar:
        for number, start, batch in mine:
            set_seed(arguments.seed + 1000 * number + start)
            for episode in player.play(batch, [seed_of(arguments.seed, task, number) for task in batch]):
                append(path, [sample_of(episode, number, task_hash=hashes[episode.task.id])])
                bar.update(state.num_processes)
                if player.is_continuous and time.monotonic() > until:
                    break
            if time.monotonic() > until:
                break


def seed_of(seed: int, task: Task, number: int) -> int:
    """The seed of a task's sample of this number, below 2^32."""
    return int(np.random.SeedSequence([seed, number, crc32(task.id.encode())]).generate_state(1)[0])


def _joined(batches: Sequence[Batch]) -> Batch:
    number, start, _ = batches[0]
    return number, start, [task for _, _, batch in batches for task in batch]


def write_disagreements(folder: Path, samples: Sequence[Sample]) -> None:
    """Writes the answers on which the scoring rules differ to disagreements.jsonl."""
    lines = [
        {
            "id": sample.task_id,
            "sample": sample.sample,
            "family": sample.family,
            "answer": sample.answer,
            "reference": sample.reference,
            "scores": sample.scores,
        }
        for sample in samples
        if len(set(sample.scores.values())) > 1
    ]
    text = "".join(json.dumps(line, default=str) + "\n" for line in lines)
    (folder / "disagreements.jsonl").write_text(text)
