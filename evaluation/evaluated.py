"""Stored evaluations as they are compared: a checkpoint's, or those of several seeds of one recipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from evaluation.discover import OWN, evaluations_to_compare, folders_of
from evaluation.pace import pace_of
from evaluation.stored import tell_if_outdated
from evaluation.summary import mean_if_known
from fovea.runs.records import Sample, read_samples
from fovea.statistics import (
    crossed_interval,
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

    @cached_property
    def clusters(self) -> dict[str, str]:
        """The cluster of each question by id, where known. Questions of a cluster ask the same (HR-Bench)."""
        return {id: samples[0].cluster for id, samples in self.seeds[0].items() if samples[0].cluster is not None}

    def clustered(self, ids: Sequence[str], clusters: Mapping[str, str] | None = None) -> np.ndarray:
        """Mean scores [seeds, clusters]: each cluster counts once; `clusters` are its own if none are given."""
        return by_cluster(self.scores(ids), ids, self.clusters if clusters is None else clusters)

    def summary(self) -> dict[str, Any]:
        """Accuracy, pass@k if there are several samples, and cost."""
        ids = list(self.families)
        questions = [samples for seed in self.seeds for samples in seed.values()]
        samples = [sample for question in questions for sample in question]
        min_samples = min(map(len, questions))
        correct_counts = [(len(question), sum(sample.score == 1 for sample in question)) for question in questions]
        means, clusters = self.scores(ids), self.clustered(ids)
        num_clusters = clusters.shape[1]
        low, high = wilson_interval(round(float(clusters.mean(0).sum())), num_clusters)
        if len(self.seeds) > 1 and num_clusters > 1:
            low, high, _ = crossed_interval(np.zeros((1, num_clusters)), clusters)
            low, high = max(0.0, low), min(1.0, high)
        found = {
            "n": len(ids),
            "num_seeds": len(self.seeds),
            "accuracy": float(means.mean()),
            "interval": [low, high],
            "accuracy_by_seed": means.mean(1).tolist(),
            "num_samples": min_samples,
            "pass_at_k": {k: fmean(pass_at_k(*counts, k) for counts in correct_counts) for k in _powers(min_samples)},
            "tokens": fmean(sample.num_tokens for sample in samples),
            "context_tokens": mean_if_known(sample.num_context_tokens for sample in samples),
            "zooms": fmean(sample.num_zooms for sample in samples),
            "image_tokens": mean_if_known(sample.num_image_tokens for sample in samples),
            **self._pace(),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _pace(self) -> dict[str, Any]:
        """Seconds an episode and what played, where that is the same in all folders; else nothing."""
        paces = [pace for folder in self.folders if (pace := pace_of(folder)) is not None]
        settings = {pace.setting for pace in paces}
        if len(paces) < len(self.folders) or len(settings) != 1:
            return {}
        seconds = fmean([pace.seconds for pace in paces], weights=[pace.episodes for pace in paces])
        return {"seconds": seconds, "played_by": str(settings.pop())}


def by_cluster(values: np.ndarray, ids: Sequence[str], clusters: Mapping[str, str]) -> np.ndarray:
    """Means [seeds, clusters] of values [seeds, questions]; a question without a cluster is one of its own."""
    places = defaultdict(list)
    for place, id in enumerate(ids):
        places[clusters.get(id, id)].append(place)
    return np.stack([values[:, together].mean(1) for together in places.values()], axis=1)


def _powers(maximum: int) -> list[int]:
    """1, 2, 4, … up to `maximum`, itself included."""
    return sorted({2**exponent for exponent in range(maximum.bit_length()) if 2**exponent <= maximum} | {maximum})


def load(pattern: str | Path, *, rule: str | None = None) -> Evaluated:
    """The evaluation in a folder, or those in all folders that a pattern finds; by a published `rule` if one is named.

    Raises:
        SystemExit: if there is none.
    """
    folders = folders_of(pattern) or [Path(pattern)]
    seed_evaluations = [evaluations_to_compare(folder) for folder in folders]
    seeds: list[dict[str, list[Sample]]] = []
    benchmarks_by_id: dict[str, str] = {}
    for evaluations in seed_evaluations:
        samples = defaultdict(list)
        for benchmark, folder in evaluations.items():
            tell_if_outdated(folder)
            for sample in _scored(folder, rule):
                if benchmark != OWN:
                    family = f"{benchmark}: {sample.family}"
                    cluster = sample.cluster and f"{benchmark}/{sample.cluster}"
                    sample = replace(sample, task_id=f"{benchmark}/{sample.task_id}", family=family, cluster=cluster)
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
            raise SystemExit(f"{folder} has no verdicts by {rule!r}: use one of {rules}")
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


def refuse_other_questions(a: Evaluated, b: Evaluated) -> None:
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
