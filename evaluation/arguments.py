"""Arguments of `fovea eval`, by which a stored evaluation finds its tasks again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from environments.policies.forced import OPENINGS
from environments.probes.tools import TOOL_MODES
from evaluation.benchmarks import BENCHMARKS, load_benchmark
from evaluation.discover import ARMS
from fovea.arguments import PlayerArguments, TimeArguments
from fovea.tasks import AnswerKind, Task


class OfEachFamily:
    """Mixed into arguments of an analysis: `max_tasks` takes as many tasks of each family, not the first ones."""

    max_tasks: int | None

    def load_tasks(self) -> list[Task]:
        """The tasks that these arguments name."""
        every = copy(self)
        every.max_tasks = None
        return of_each_family(super(OfEachFamily, every).load_tasks(), self.max_tasks)  # type: ignore[misc]


def of_each_family(tasks: Sequence[Task], number: int | None) -> list[Task]:
    """At most so many of the tasks, in their order: first one of each family, then a second of each, and so on."""
    seen: Counter[str] = Counter()
    ranks = []
    for place, task in enumerate(tasks):
        ranks.append((seen[task.family], place))
        seen[task.family] += 1
    return [tasks[place] for place in sorted(place for _, place in sorted(ranks)[:number])]


@dataclass(kw_only=True)
class EvaluationArguments(PlayerArguments, TimeArguments):
    """The checkpoint, the tasks and the output folder of an evaluation."""

    output_dir: str = field(metadata={"help": "Folder for samples.jsonl and summary.json."})
    dataset_name: str = field(
        default="",
        metadata={
            "help": "Tasks: file, folder, hub id or module:function (default: the tiny model's held-out scenes). With "
            "--benchmark its folder or file (default: its hub id)."
        },
    )
    benchmark: str | None = field(
        default=None, metadata={"help": "A public benchmark, in its own file format.", "choices": list(BENCHMARKS)}
    )
    num_samples: int = field(default=1, metadata={"help": "Episodes a task: k of Avg@k, with temperature above 0."})
    prompt: str = field(
        default="protocol",
        metadata={
            "help": "protocol: tools and think/answer tags; direct: the bare question, no tools.",
            "choices": ["protocol", "direct"],
        },
    )
    force: str = field(
        default="nothing",
        metadata={
            "help": "Baselines of the same weights: every episode begins like a call of the zoom, or like an answer.",
            "choices": ["nothing", *OPENINGS],
        },
    )
    tools: str = field(
        default="true",
        metadata={
            "help": "Handling of tool calls: carried out; refused, with the tools described as ever; or absent, "
            "tools and all that the prompt says of them.",
            "choices": list(TOOL_MODES),
        },
    )
    arms: list[str] | None = field(
        default=None,
        metadata={
            "help": "Evaluate in several arms, each in a folder of its name below output_dir: with_tool, without_tool, "
            "schema_only (described, calls refused), single_pass (the bare question). `fovea compare` then splits what "
            "the tool did."
        },
    )
    all_checkpoints: bool = field(
        default=False,
        metadata={"help": "Evaluate each checkpoint-* of a training's folder, each in a folder of its name."},
    )
    token_pooling: int = field(
        default=1, metadata={"help": "Average so many neighbouring visual tokens of an image into one."}
    )
    pixel_pooling: int = field(
        default=1,
        metadata={"help": "The control of token_pooling: images keep their tokens, and so many times fewer pixels."},
    )
    text_only: bool = field(default=False, metadata={"help": "Leave all images out: what can be guessed."})
    view_sizes_px: list[int] | None = field(
        default=None,
        metadata={
            "help": "Evaluate once for each: first views of at most the square of so many pixels (Chain-of-Focus: 224 "
            "336 448 672 1024 1920 2560 3840), each in a folder of its own below output_dir."
        },
    )

    def __post_init__(self) -> None:
        if self.prompt == "direct" and self.force != "nothing":
            raise ValueError(f"--force {self.force} is for the protocol: leave it out with --prompt direct")
        self._check_arms()
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"num_samples is {self.num_samples} and temperature 0, at which all samples of a task are alike: add "
                "--temperature"
            )
        if self.all_checkpoints and self.view_sizes_px:
            raise ValueError("--all_checkpoints and --view_sizes_px are one too many: leave one of them out")
        if self.max_minutes is not None and (self.arms or self.all_checkpoints or self.view_sizes_px):
            raise ValueError(
                "--max_minutes would leave several evaluations with different questions: leave out --arms, "
                "--all_checkpoints and --view_sizes_px"
            )
        if min(self.token_pooling, self.pixel_pooling) < 1:
            raise ValueError(
                f"token_pooling {self.token_pooling}, pixel_pooling {self.pixel_pooling}: give 1 (nothing is taken "
                "away) or more"
            )
        elsewhere = self.use_vllm or self.vllm_server_base_url or self.openai_base_url
        if self.pools and elsewhere:
            raise ValueError(
                "token_pooling and pixel_pooling are done where Transformers runs the model, not in vLLM or behind an "
                "endpoint: leave one of them out"
            )
        if self.openai_base_url and self.force != "nothing":
            raise ValueError(
                f"--force {self.force} continues a turn token by token, which an endpoint does not: use vLLM"
            )

    def _check_arms(self) -> None:
        if self.prompt == "direct" and self.tools != "true":
            raise ValueError(f"--tools {self.tools} is for the protocol: leave it out with --prompt direct")
        if self.tools == "absent" and self.force == "zoom":
            raise ValueError("--force zoom calls a tool that --tools absent takes away: leave one of them out")
        if self.arms is None:
            return
        self.arms = [arm for word in self.arms for arm in word.split(",") if arm]
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise ValueError(f"--arms {', '.join(unknown)}: the arms are {', '.join(ARMS)}")
        if len(set(self.arms)) < len(self.arms) or not self.arms:
            raise ValueError(f"--arms {' '.join(self.arms)}: name one or more, each once, of {', '.join(ARMS)}")
        if self.prompt != "protocol" or self.tools != "true" or self.force != "nothing" or self.view_sizes_px:
            raise ValueError("--arms choose prompt and tools: leave out --prompt, --tools, --force and --view_sizes_px")

    @property
    def pools(self) -> bool:
        """True if images lose tokens or pixels."""
        return max(self.token_pooling, self.pixel_pooling) > 1

    def load_tasks(self) -> list[Task]:
        """The tasks that these arguments name."""
        if self.benchmark:
            tasks = load_benchmark(
                self.benchmark, self.dataset_name or None, skip_bad_rows=self.skip_bad_rows, limit=self.max_tasks
            )
        else:
            tasks = self.read_tasks(self.dataset_name or "synthesis.shapes:test_tasks", limit=self.max_tasks)
        if not self.text_only:
            return tasks
        kept = [replace(task, images=(), boxes=()) for task in tasks if task.kind is not AnswerKind.BOX]
        if len(kept) < len(tasks):
            print(f"left out: {len(tasks) - len(kept)} of {len(tasks)} tasks, which ask for boxes")
        return kept
