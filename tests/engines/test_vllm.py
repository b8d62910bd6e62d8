"""The real vLLM engine on CPU: `make test-engines` installs it. What it reads and writes is what Transformers would."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

from environments.factories import environment_factory

pytest.importorskip("vllm")

from benchmarks.serving import vllm_server
from environments.arguments import EpisodeArguments
from environments.play import Sampling, play
from environments.policies.oracle import OraclePolicy
from environments.policies.transformers import TransformersPolicy
from environments.policies.vllm import VllmPolicy, VllmServerPolicy, start_engine
from environments.rendering import Renderer
from environments.seats import Conversation, Limits, Reply
from environments.trace_files import read_traces
from fovea.jsonl import read_jsonl
from fovea.models.loading import Model, load_model
from fovea.models.names import resolve_path
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments
from rl.trainer import ZoomGRPOTrainer
from synthesis.agent.command import AgentArguments
from synthesis.agent.command import run as run_agent
from synthesis.shapes import make_tasks
from tests.training import ON_CPU, unlaunched

pytestmark = pytest.mark.engines


@dataclass
class OpenedByOracle:
    """The oracle zooms; where it would answer the policy writes, with the crops before it."""

    policy: Any
    oracle: OraclePolicy
    tokenizer: Any

    def reply(self, conversations, *, max_tokens):
        replies = [self._encoded(reply.text) for reply in self.oracle.reply(conversations, max_tokens=max_tokens)]
        rows = [row for row, reply in enumerate(replies) if "<answer>" in reply.text]
        if rows:
            written = self.policy.reply(
                [conversations[row] for row in rows], max_tokens=[max_tokens[row] for row in rows]
            )
            for row, reply in zip(rows, written, strict=True):
                replies[row] = reply
        return replies

    def _encoded(self, text: str) -> Reply:
        ids = self.tokenizer(text + self.tokenizer.eos_token, add_special_tokens=False).input_ids
        return Reply(text, tuple(ids), logprobs=(0.0,) * len(ids))


@pytest.fixture(scope="module")
def model():
    return load_model("tiny")


@pytest.fixture(scope="module")
def engine():
    return start_engine(resolve_path("tiny"), max_model_len=1024, disable_log_stats=False)


@pytest.fixture
def episodes_of(model, episode_arguments):
    renderer = Renderer(model.processor)
    tasks = make_tasks(num_tasks=12, seed=31)

    def episodes(policy_class, source, **options):
        policy = policy_class(source, renderer, Sampling(**options))
        oracle = OraclePolicy(model.frame, box_step=10)
        return play(
            OpenedByOracle(policy, oracle, renderer.tokenizer),
            tasks,
            environment_factory=environment_factory(episode_arguments, model),
            limits=episode_arguments.limits(),
            renderer=renderer,
        )

    return episodes


def test_the_engine_writes_what_transformers_writes(engine, model, episodes_of):
    ours = episodes_of(VllmPolicy, engine, temperature=0.0)
    theirs = episodes_of(TransformersPolicy, model.network, temperature=0.0)
    assert sum(episode.num_zooms for episode in ours) > 8
    assert [e.record.completion_ids for e in ours] == [e.record.completion_ids for e in theirs]
    assert [e.record.loss_mask for e in ours] == [e.record.loss_mask for e in theirs]


def last_turn_logprobs(model, episode):
    """Log-probabilities of the last turn's tokens where no placeholder can be sampled, in one forward over all."""
    record, count = episode.record, episode.turns[-1].num_tokens
    ids = [*record.prompt_ids, *record.completion_ids]
    renderer = Renderer(model.processor)
    with torch.no_grad():
        logits = model.network(**renderer.model_inputs([ids], [record.images])).logits[0, -count - 1 : -1].float()
    logits[:, list(renderer.placeholder_ids)] = -torch.inf
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[-count:])[:, None])[:, 0].numpy()


def mean_difference(some, others):
    differences = np.abs(np.concatenate(some) - np.concatenate(others))
    print(f"log-probabilities differ by {differences.mean():.1e} in the mean, {differences.max():.1e} at most")
    return differences.mean()


def sampled_logprobs(episodes):
    return [np.array(episode.record.logprobs[-episode.turns[-1].num_tokens :]) for episode in episodes]


def test_its_log_probabilities_are_the_trainers(engine, model, episodes_of):
    sampled = episodes_of(VllmPolicy, engine, temperature=1.0)
    assert sum(episode.num_zooms for episode in sampled) > 8
    ours = [last_turn_logprobs(model, episode) for episode in sampled]
    assert mean_difference(sampled_logprobs(sampled), ours) < 1e-4


def test_in_bfloat16_it_differs_by_no_more_than_rounding_does(model, episodes_of):
    """If the base writes freely, bfloat16 itself moves log-probabilities by more than 1e-2."""
    engine = start_engine(resolve_path("tiny"), max_model_len=1024, dtype="bfloat16")
    rounded = load_model("tiny", dtype="bfloat16")
    sampled = episodes_of(VllmPolicy, engine, temperature=1.0)
    exact, ours = ([last_turn_logprobs(trained, episode) for episode in sampled] for trained in (model, rounded))
    assert mean_difference(sampled_logprobs(sampled), ours) < max(1e-2, 1.2 * mean_difference(ours, exact))


def test_a_later_turn_finds_the_earlier_ones_in_the_prefix_cache(engine, model, episodes_of):
    def hits():
        return sum(metric.value for metric in engine.get_metrics() if metric.name == "vllm:prefix_cache_hits")

    renderer = Renderer(model.processor)
    policy = VllmPolicy(engine, renderer, Sampling(temperature=0.0))
    text = {"type": "text", "text": "Which digit is on the green circle? " * 20}
    picture = Image.new("RGB", (128, 128), "green")
    ids = renderer.prompt_ids([{"role": "user", "content": [{"type": "image", "image": picture}, text]}], ())
    task = make_tasks(num_tasks=1, seed=1)[0]
    (reply,) = policy.reply([Conversation(task, [], ids, [picture])], max_tokens=[8])
    before, longer = hits(), [*ids, *reply.token_ids, *renderer.tokenizer(" And now?").input_ids]
    policy.reply([Conversation(task, [], longer, [picture])], max_tokens=[8])
    assert hits() - before > len(ids) / 2


def test_a_prompt_that_the_engine_would_read_differently_is_refused(engine, model, episode_arguments):
    renderer = Renderer(model.processor)
    ids = renderer.prompt_ids([{"role": "user", "content": [{"type": "text", "text": "q"}]}], ())
    picture = Image.new("RGB", (64, 64))
    task = make_tasks(num_tasks=1, seed=1)[0]
    one_short = [*ids, *[renderer.image_token_id] * 15]
    with pytest.raises(ValueError, match=f"{len(ids) + 16} tokens where the loss will read {len(ids) + 15}"):
        VllmPolicy(engine, renderer, Sampling()).reply([Conversation(task, [], one_short, [picture])], max_tokens=[4])


def test_training_keeps_the_engine_on_the_weights_of_now(model, episode_arguments, tmp_path):
    """GRPO in this process: rollouts by the engine, which after each step writes what the trained model would."""
    trainer = ZoomGRPOTrainer(
        load_model("tiny").network,
        [Reward("length", RewardKind.EPISODE, lambda task, episode: float(episode.num_tokens))],
        GRPOArguments(
            **ON_CPU,
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=2,
            max_steps=2,
            learning_rate=1e-3,
            use_vllm=True,
            vllm_mode="colocate",
            vllm_engine_kwargs={"max_model_len": 1024},
        ),
        train_tasks=make_tasks(num_tasks=2, seed=31),
        environment_factory=environment_factory(episode_arguments, model),
        limits=Limits(3, 24, 220),
        processing_class=model.processor,
    )
    trainer.train()
    differences = [row["sampling/sampling_logp_difference/mean"] for row in trainer.state.log_history[:2]]
    assert max(differences) < 5e-3  # what placeholders would have got
    trainer.vllm_generation.sync_weights()
    sampled = play(
        VllmPolicy(trainer.vllm_generation.llm, trainer.renderer, Sampling()),
        make_tasks(num_tasks=8, seed=5),
        environment_factory=environment_factory(episode_arguments, model),
        limits=Limits(1, 24, 220),
        renderer=trainer.renderer,
    )
    trained = Model(trainer.model.eval(), model.processor, "tiny")
    ours = [last_turn_logprobs(trained, episode) for episode in sampled]
    assert mean_difference(sampled_logprobs(sampled), ours) < 1e-4


def test_two_processes_each_with_an_engine_pair_what_they_play(tmp_path):
    """Ranks play their own tasks; what an engine sampled has the trainer's log-probabilities on either."""
    words = (
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "rl/train_grpo.py",
        "--use_cpu", "true", "--model_name_or_path", "tiny", "--output_dir", str(tmp_path), "--use_vllm", "true",
        "--vllm_mode", "colocate", "--vllm_engine_kwargs", '{"max_model_len": 1024}', "--max_steps", "2",
        "--per_device_train_batch_size", "4", "--num_generations", "2",
    )  # fmt: skip
    result = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr[-5000:]
    logs = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "reward" in row]
    assert [row["step"] for row in logs] == [1, 2]
    assert max(row["sampling/sampling_logp_difference/mean"] for row in logs) < 5e-3
    episodes = read_jsonl(tmp_path / "episodes.jsonl")
    assert len(episodes) == 16 and len({episode["task_id"] for episode in episodes}) > 2


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The folder of an adapter of tiny that differs from it."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    adapted = get_peft_model(
        load_model("tiny").network, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = "tiny"
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("--use_peft", "true", "--lora_r", "8", "--lora_target_modules", "q_proj", "v_proj"),
        ("--use_peft", "true", "--lora_r", "4"),
        (),
    ],
    ids=["the same", "another", "all weights"],
)
def test_a_training_from_an_adapter_plays_with_what_the_adapter_has_learned(adapter, tmp_path, words):
    command = (
        sys.executable, "rl/train_grpo.py", "--use_cpu", "true", "--model_name_or_path", str(adapter),
        "--output_dir", str(tmp_path), "--use_vllm", "true", "--vllm_mode", "colocate",
        "--vllm_engine_kwargs", '{"max_model_len": 1024}', "--max_steps", "2", "--max_tasks", "4",
        "--per_device_train_batch_size", "4", "--num_generations", "2", *words,
    )  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[2], env=unlaunched()
    )
    assert result.returncode == 0, result.stderr[-5000:]
    logs = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "reward" in row]
    assert max(row["sampling/sampling_logp_difference/mean"] for row in logs) < 5e-3


@pytest.fixture(scope="module")
def server():
    with vllm_server(resolve_path("tiny"), max_model_len=1024) as url:
        yield url


def test_a_server_writes_what_transformers_writes(server, model, episodes_of):
    ours = episodes_of(VllmServerPolicy, server, temperature=0.0)
    theirs = episodes_of(TransformersPolicy, model.network, temperature=0.0)
    assert [e.record.completion_ids for e in ours] == [e.record.completion_ids for e in theirs]
    assert all(len(e.record.logprobs) == len(e.record.completion_ids) for e in ours)


def test_a_server_that_resizes_in_another_way_is_refused(server, model):
    renderer = Renderer(model.processor)
    task = make_tasks(num_tasks=1, seed=1)[0]
    one_short = [*renderer.tokenizer("q").input_ids, *[renderer.image_token_id] * 15]
    with pytest.raises(ValueError, match=r"17 tokens where the loss will read 16"):
        VllmServerPolicy(server, renderer, Sampling()).reply(
            [Conversation(task, [], one_short, [Image.new("RGB", (64, 64))])], max_tokens=[4]
        )


def test_the_visual_agent_s_roles_are_played_by_a_server(server, tmp_path):
    name = f"{resolve_path('tiny')}@{server}/v1"
    arguments = AgentArguments(
        output_dir=str(tmp_path), locate=name, look=name, prompts="roles/tiny.yaml", temperature=0.0, num_scenes=24,
        num_workers=8,
    )  # fmt: skip
    folder = run_agent(arguments, EpisodeArguments(crop_min_pixels=64 * 64, crop_max_pixels=80 * 64))
    outcomes = read_jsonl(folder / "outcomes.jsonl")
    assert len(outcomes) == 24 and len(list(read_traces(folder))) >= 12
    assert sum(outcome["tokens"].get("locate", 0) for outcome in outcomes) > 100
