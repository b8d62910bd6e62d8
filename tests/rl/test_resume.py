"""A training that was cut off goes on to the very weights of one that was not."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from transformers import trainer as trainer_module

from environments.factories import environment_factory
from fovea.config import ConfigError
from fovea.data.identity import data_named, fingerprint
from fovea.episodes import Episode
from fovea.jsonl import read_jsonl
from fovea.models.names import expect_another_folder
from fovea.runs.checkpoints import is_finished, last_whole_checkpoint
from fovea.runs.directory import RunDirectory, changes
from fovea.runs.starting import FREE_SETTINGS, WEIGHTS, start_run
from fovea.training import train
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments
from rl.checkpoints import load_to
from rl.train_grpo import make_cold_start
from rl.trainer import ZoomGRPOTrainer
from synthesis.shapes import make_tasks
from tests.training import ON_CPU


def by_length(task, episode: Episode) -> float:
    return float(episode.num_tokens % 7)


@pytest.fixture
def build(tiny, episode_arguments):
    start = {name: value.clone() for name, value in tiny.network.state_dict().items()}

    def make(folder, **options):
        tiny.network.load_state_dict(start)
        settings = ON_CPU | dict(
            output_dir=str(folder), per_device_train_batch_size=4, num_generations=2, save_strategy="steps",
            save_steps=1, max_steps=4, learning_rate=1e-3, lr_scheduler_type="constant",
        )  # fmt: skip
        return ZoomGRPOTrainer(
            tiny.network,
            [Reward("length", RewardKind.EPISODE, by_length)],
            GRPOArguments(**(settings | options)),
            train_tasks=make_tasks(num_tasks=4, seed=31),
            environment_factory=environment_factory(episode_arguments, tiny),
            limits=episode_arguments.limits(),
            processing_class=tiny.processor,
            run=RunDirectory(folder),
        )

    return make


CHOOSING = {"task_selection": "difficulty", "dynamic_sampling": 2}


@pytest.mark.parametrize(
    "period",
    [{}, {"num_iterations": 2}, {"steps_per_generation": 2}, CHOOSING, CHOOSING | {"num_iterations": 2}],
    ids=str,
)
def test_a_cut_training_ends_with_the_weights_of_an_uncut_one(build, tmp_path, period):
    whole = build(tmp_path / "whole", **period)
    whole.train()
    expected = {name: value.clone() for name, value in whole.model.state_dict().items()}
    build(tmp_path / "cut", **period | {"max_steps": 3}).train()
    checkpoint = last_whole_checkpoint(tmp_path / "cut")
    assert checkpoint.name == "checkpoint-3"
    RunDirectory(tmp_path / "cut").rewind(3)
    again = build(tmp_path / "cut", **period)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    whole_log, cut_log = (read_jsonl(tmp_path / name / "episodes.jsonl") for name in ("whole", "cut"))
    assert cut_log == whole_log, "each episode is logged once"
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())


@pytest.mark.parametrize("after", [{}, {"num_iterations": 2}, {"steps_per_generation": 4}], ids=str)
def test_a_generation_that_was_cut_otherwise_is_played_anew(build, tmp_path, after, caplog):
    build(tmp_path, steps_per_generation=2, max_steps=3).train()
    again = build(tmp_path, per_device_train_batch_size=2, **after)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4 and "a new generation is played" in caplog.text


def test_a_reference_that_has_moved_is_not_replaced_in_silence(build, tmp_path):
    moving = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1}
    build(tmp_path, max_steps=2, **moving).train()
    (tmp_path / "checkpoint-2" / "reference.pt").unlink()
    with pytest.raises(ConfigError, match=r"lacks reference\.pt"):
        build(tmp_path, **moving).train(resume_from_checkpoint=True)


class Hub:
    """The pushes to the hub, and the state of the folder at each."""

    def __init__(self):
        self.uploads = []

    def create_repo(self, *args, **kwargs):
        return SimpleNamespace(repo_id="me/x")

    def upload_folder(self, **kwargs):
        files = [str(path.relative_to(kwargs["folder_path"])) for path in Path(kwargs["folder_path"]).rglob("*")]
        kept = filter_repo_objects(files, ignore_patterns=kwargs.get("ignore_patterns"))
        self.uploads.append((kwargs.get("path_in_repo"), sorted(kept), is_finished(kwargs["folder_path"])))
        return SimpleNamespace(done=lambda: True, is_done=lambda: True, result=lambda: None)


def test_what_is_pushed_is_the_model_and_whole_checkpoints(build, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(trainer_module, "hf_api", lambda *args, **kwargs: hub)
    options = {"push_to_hub": True, "hub_model_id": "me/x", "hub_strategy": "checkpoint", "steps_per_generation": 2}
    run = RunDirectory(tmp_path)
    start_run(run, None, training={}).begin()
    (tmp_path / "last_good").mkdir()
    (tmp_path / "last_good" / "model.safetensors").touch()
    train(build(tmp_path, max_steps=1, **options), run, checkpoint=None, max_minutes=None)
    (_, files, is_done), (place, checkpoint, _) = hub.uploads[:2]
    assert "model.safetensors" in files and not is_done and is_finished(tmp_path)
    private = [name for name in files if name.endswith("jsonl") or name.startswith("last_good/")]
    assert not private and (tmp_path / "episodes.jsonl").exists()
    assert place == "last-checkpoint" and {"rollouts_0.pt", "whole"} <= {*checkpoint}
    last = build(tmp_path, max_steps=1, **options)
    last.hub_model_id = None  # the repository is asked for again
    last.push_to_hub()
    assert "model.safetensors" in hub.uploads[-1][1] and "episodes.jsonl" not in hub.uploads[-1][1]


@pytest.mark.parametrize("steps", [2, 3])  # an epoch has two
def test_a_finished_training_takes_no_step_more(build, tmp_path, capsys, steps):
    run = RunDirectory(tmp_path)
    first = build(tmp_path, max_steps=steps)
    train(first, run, checkpoint=None, max_minutes=None)
    expected = {name: value.clone() for name, value in first.model.state_dict().items()}
    ledger = (tmp_path / "ledger.json").read_text()
    again = build(tmp_path, max_steps=steps)
    train(again, run, checkpoint=str(last_whole_checkpoint(tmp_path)), max_minutes=None)
    assert f"nothing is left to train: {steps} of {steps} steps" in capsys.readouterr().out
    assert (tmp_path / "ledger.json").read_text() == ledger
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
    assert last_whole_checkpoint(tmp_path).name == f"checkpoint-{steps}" and is_finished(tmp_path)


def test_a_training_that_was_killed_before_its_end_was_saved_keeps_the_best_weights(build, tmp_path):
    run = RunDirectory(tmp_path)
    train(build(tmp_path, max_steps=2, save_steps=1), run, checkpoint=None, max_minutes=None)
    best, last = (load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2))
    assert any(not torch.equal(best[name], last[name]) for name in best)
    path = tmp_path / "checkpoint-2" / "trainer_state.json"
    state = json.loads(path.read_text()) | {"best_model_checkpoint": str(tmp_path / "checkpoint-1"), "best_metric": 0.5}
    path.write_text(json.dumps(state))

    def again():
        trainer = build(tmp_path, max_steps=2, save_steps=1)
        trainer.args.load_best_model_at_end, trainer.args.metric_for_best_model = True, "loss"
        train(trainer, run, checkpoint=str(tmp_path / "checkpoint-2"), max_minutes=None)
        return load_file(tmp_path / "model.safetensors")

    kept = again()
    assert all(torch.equal(kept[name], last[name]) for name in last), "a finished run is left as it is"
    (tmp_path / "unfinished").touch()
    kept = again()
    assert all(torch.equal(kept[name], best[name]) for name in best) and is_finished(tmp_path)


def test_a_run_of_another_length_says_what_becomes_of_its_rates(tmp_path, capsys):
    def start(**settings):
        started = start_run(RunDirectory(tmp_path), None, training=SimpleNamespace(to_dict=lambda: settings))
        started.begin()
        return started.checkpoint

    start(max_steps=6, seed=0)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "whole").touch()
    start(max_steps=6, seed=0)
    assert "learning rates" not in capsys.readouterr().out
    start(max_steps=8, seed=0)
    assert "max_steps was 6, is 8: learning rates go by the new length" in capsys.readouterr().out


MEMORY = (
    "max_packed_tokens", "gradient_checkpointing", "rollout_batch_size", "image_cache_gib", "vllm_max_model_length",
    "vllm_gpu_memory_utilization", "vllm_enable_sleep_mode",
)  # fmt: skip


def test_a_run_goes_on_starts_anew_or_is_refused(tmp_path):
    def start(resume=None, **settings):
        started = start_run(RunDirectory(tmp_path), resume, training=SimpleNamespace(to_dict=lambda: settings))
        started.begin()
        return started.checkpoint

    assert start(seed=0) is None
    run = RunDirectory(tmp_path)
    for step in (1, 2, 3):
        run.add_metrics({"step": step})
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "whole").touch()
    with pytest.raises(ConfigError, match=r"checkpoint-2.*seed was 0, is 1.*true to go on.*_checkpoint false"):
        start(seed=1)
    for cure in MEMORY:
        assert start(seed=0, **{cure: "another"}).endswith("checkpoint-2"), (
            f"{cure} is what a run out of memory changes"
        )
    assert start(seed=0).endswith("checkpoint-2")
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]
    (tmp_path / "training_args.bin").touch()
    assert not is_finished(tmp_path), "a push to the hub has left it there meanwhile"
    (tmp_path / "unfinished").unlink()
    (tmp_path / "checkpoint-2" / "whole").unlink()
    with pytest.raises(ConfigError, match="holds a model of a run with other settings"):
        start(seed=1)
    assert start("false", seed=1) is None
    assert not is_finished(tmp_path), "nor does its model"
    assert read_jsonl(tmp_path / "metrics.jsonl") == []
    assert start(seed=1) is None, "the old run's checkpoint counts no more"


def write_checkpoint(folder, step, *, whole=True, weights_alone=False):
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if whole:
        (folder / "whole").touch()
    if not weights_alone:
        (folder / "rng_state.pth").touch()


@pytest.mark.parametrize(
    ("resume", "expected"),
    [
        (None, "checkpoint-4"), (True, "checkpoint-4"), ("true", "checkpoint-4"), (False, None), ("False", None),
        ("checkpoint-2", "checkpoint-2"), ("last_good", "last_good"),
        ("checkpoint-3", "no checkpoint of a training"), ("weights", "weights alone"),
    ],
)  # fmt: skip
def test_every_form_of_resume_from_checkpoint_is_honoured(tmp_path, resume, expected):
    run = RunDirectory(tmp_path)
    write_checkpoint(tmp_path / "checkpoint-2", 2)
    write_checkpoint(tmp_path / "checkpoint-4", 4)
    write_checkpoint(tmp_path / "last_good", 2)
    write_checkpoint(tmp_path / "weights", 2, weights_alone=True)
    for step in range(1, 6):
        run.add_metrics({"step": step})
    named = str(tmp_path / resume) if isinstance(resume, str) and resume.lower() not in ("true", "false") else resume
    if expected and " " in expected:
        with pytest.raises(ConfigError, match=expected):
            start_run(run, named)
        assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 5, "nothing was cut"
        return
    start = start_run(run, named)
    assert start.checkpoint == (str(tmp_path / expected) if expected else None)
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 5, "nothing is written before the trainer is there"
    start.begin()
    steps = {"checkpoint-4": 4, "checkpoint-2": 2, "last_good": 2, None: 0}[expected]
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == list(range(1, steps + 1))
    assert (tmp_path / "last_good" / "whole").exists() is (expected is not None), "a fresh start has no last good one"
    assert (tmp_path / "last_good").exists(), "what it holds stays"


@pytest.mark.parametrize(("torn", "is_told"), [(6, True), (3, False), (None, False)])
def test_a_newer_checkpoint_that_is_not_whole_is_told_of(tmp_path, capsys, torn, is_told):
    write_checkpoint(tmp_path / "checkpoint-4", 4)
    for name in ("checkpoint-best", "checkpoint-v2", "checkpoint-9-old"):  # of a user's own
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-12").touch()
    if torn:
        write_checkpoint(tmp_path / f"checkpoint-{torn}", torn, whole=False)
    assert start_run(RunDirectory(tmp_path), None).checkpoint == str(tmp_path / "checkpoint-4")
    told = capsys.readouterr().out
    assert (f"checkpoint-{torn} is passed over" in told) is is_told and ("is passed over" in told) is is_told


def test_what_a_process_of_several_on_a_cpu_has_left_is_loaded_again(tmp_path):
    torch.save({"phase": 1, "rollouts": torch.ones(2)}, tmp_path / "rollouts_1.pt")
    assert load_to(torch.device("cpu", 0), tmp_path / "rollouts_1.pt")["rollouts"].tolist() == [1, 1]


def test_there_must_be_a_checkpoint_to_go_on_from_where_one_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="no whole checkpoint"):
        start_run(RunDirectory(tmp_path), True)


def test_a_complete_run_is_left_as_it_is(tmp_path, capsys):
    def start(resume=None, **settings):
        started = start_run(RunDirectory(tmp_path), resume, training=SimpleNamespace(to_dict=lambda: settings))
        started.begin()
        return started.checkpoint

    start(max_steps=4, seed=0)
    write_checkpoint(tmp_path / "checkpoint-1", 1)  # the best one; the Trainer has deleted the last
    (tmp_path / "unfinished").unlink()
    for name in ("training_args.bin", "complete"):
        (tmp_path / name).touch()
    RunDirectory(tmp_path).add_metrics({"step": 4})
    with pytest.raises(SystemExit) as ended:
        start(max_steps=4, seed=0)
    assert ended.value.code == 0 and "is complete" in capsys.readouterr().out
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 4}]
    assert start(max_steps=6, seed=0).endswith("checkpoint-1"), "a longer one goes on"
    (tmp_path / "complete").touch()
    assert start("false", max_steps=4, seed=0) is None


def test_logs_go_back_to_the_checkpoint(tmp_path):
    run = RunDirectory(tmp_path)
    for step in (1, 2, 3):
        run.add_metrics({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    played = [(0, "eval"), (1, "train"), (2, "train"), (2, "eval"), (3, "train")]
    rows = [{"step": step, "mode": mode} for step, mode in played]
    (tmp_path / "episodes.jsonl").write_text("".join(f"{row}\n".replace("'", '"') for row in rows))
    run.rewind(2)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]
    kept = [(row["step"], row["mode"]) for row in read_jsonl(tmp_path / "episodes.jsonl")]
    assert kept == [(0, "eval"), (1, "train"), (2, "train"), (2, "eval")]
    run.rewind(0)
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


def test_a_continuation_with_other_settings_is_told_what_changed():
    before = {"training": {"learning_rate": 1e-4, "max_steps": 10}, "script": {"reward_funcs": ["accuracy"]}}
    now = {"training": {"learning_rate": 2e-4, "max_steps": 20}, "script": {"reward_funcs": ["accuracy"]}}
    assert list(changes(before, now, free=FREE_SETTINGS)) == ["learning_rate was 0.0001, is 0.0002"]


def test_a_continuation_on_other_data_is_refused_by_name(tmp_path):
    tasks = make_tasks(num_tasks=3, seed=31)
    run = RunDirectory(tmp_path)
    run.write_start(data={"tasks": data_named("tasks", list(map(fingerprint, tasks)))})
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "whole").touch()
    others = [*tasks[:2], replace(tasks[2], answer="another")]
    with pytest.raises(ConfigError, match=r"tasks was .3 tasks, .*, is .3 tasks, "):
        start_run(run, None, data={"tasks": data_named("tasks", list(map(fingerprint, others)))})


def test_a_cold_start_in_several_processes_is_made_by_hand(tmp_path, monkeypatch):
    """Within the launch of several it would wait for its like forever."""
    (tmp_path / "sft.yaml").write_text(f"output_dir: {tmp_path / 'sft'}\n")
    monkeypatch.setattr("rl.train_grpo.process_state", lambda: SimpleNamespace(num_processes=2))
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("it was started"))
    with pytest.raises(ConfigError, match=r"launch sft/train_sft.py --config .*sft.yaml in the same way first"):
        make_cold_start(str(tmp_path / "sft.yaml"), str(tmp_path / "sft"))
    make_cold_start(str(tmp_path / "sft.yaml"), "another")


def test_a_run_does_not_go_on_over_a_model_that_was_trained_anew(tmp_path):
    write_checkpoint(tmp_path / "checkpoint-2", 2)
    run = RunDirectory(tmp_path)
    run.write_start(data={WEIGHTS: "ab"})
    assert start_run(run, None, data={WEIGHTS: "ab"}).checkpoint
    with pytest.raises(ConfigError, match='weights of model_name_or_path was "ab", is "cd"'):
        start_run(run, None, data={WEIGHTS: "cd"})


def test_a_training_never_writes_over_the_model_that_it_starts_from(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds the model that this starts from"):
        expect_another_folder(tmp_path / ".." / tmp_path.name, str(tmp_path))
    expect_another_folder(tmp_path / "out", str(tmp_path))
