"""Does the policy look? At each evaluation the held-out tasks are also played with other crops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback

from environments.probes.other_images import with_others
from rewards.accuracy import accuracy


class ProbeCallback(TrainerCallback):
    """Plays a trainer's evaluation tasks with true crops and in each of the `probes`, environments by name.

    Logs the accuracy of each as `eval_probe/NAME`, and as `eval_crop_dependence` how much true crops add to the best
    of the others.
    """

    def __init__(self, trainer: Any, probes: Mapping[str, Callable[[], Any]]) -> None:
        self.trainer, self.probes = trainer, dict(probes)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        accuracies = self._accuracies()
        others = [value for name, value in accuracies.items() if name not in ("true", "target")]
        probed = {f"eval_probe/{name}": value for name, value in accuracies.items()}
        if others:
            probed["eval_crop_dependence"] = accuracies["true"] - max(others)
        self.trainer.log(probed)
        kwargs["metrics"].update(probed)

    def _accuracies(self) -> dict[str, float]:
        """Accuracy of all processes' episodes by what zooms return."""
        trainer = self.trainer
        tasks = trainer.eval_tasks
        if "other" in self.probes:
            tasks = with_others(tasks)
        tasks = tasks[trainer.accelerator.process_index :: trainer.accelerator.num_processes]
        found = {}
        for name, make_environment in {"true": trainer.make_environment, **self.probes}.items():
            with trainer.policy("eval") as policy:
                played = trainer.play_tasks(policy, tasks, make_environment)
            found[name] = fmean(gather_object([accuracy(episode.task, episode) for episode in played]))
        return found
