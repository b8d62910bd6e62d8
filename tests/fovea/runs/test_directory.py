import json

from fovea.runs.directory import RunDirectory, without_secrets
from fovea.runs.records import Rollout, read_rollouts


def test_a_run_knows_its_versions_and_commit_but_no_secret(tmp_path):
    RunDirectory(tmp_path).write_start(
        training={"learning_rate": 1.0, "hub_token": "hf_secret", "max_tokens": 3, "token_pooling": 2}
    )
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["versions"]["torch"] and "commit" in record
    assert record["settings"]["training"] == {"learning_rate": 1.0, "max_tokens": 3, "token_pooling": 2}


def test_an_episode_reads_back_as_it_was_written(tmp_path, make_episode, make_task):
    from fovea.boxes import Box, Frame

    episode = make_episode("7", regions=[Box(0.1, 0.2, 0.3, 0.4, Frame.UNIT)])
    RunDirectory(tmp_path).add_rollouts([Rollout.of(episode, step=3)])
    [rollout] = read_rollouts(tmp_path)
    assert rollout.step == 3 and rollout.episode(episode.task) == episode


def test_secrets_on_the_command_line_are_not_written_down():
    words = [
        "train.py",
        "--hub_token",
        "hf_abc",
        "--wandb_api_key=xyz",
        "--url",
        "https://me:pass@host/v1",
        "--max_tokens",
        "5",
    ]
    shown = without_secrets(words)
    assert not any(secret in " ".join(shown) for secret in ("hf_abc", "xyz", "pass")) and shown[-2:] == words[-2:]
