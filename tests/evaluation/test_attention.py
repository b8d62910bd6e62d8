"""Attention of visual tokens: shares against the maps that eager attention keeps."""

import json

import pytest
import torch
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.seats import opening
from evaluation import attention, report
from evaluation.attention import Shares, analyse
from evaluation.discover import ATTENTION, find_runs
from fovea.config import ConfigError
from fovea.kernels.image_blocks import block_images
from fovea.models.processors import limited
from fovea.models.random_models import random_model
from fovea.tasks import Task


def some_tasks(counts):
    torch.manual_seed(0)
    pictures = [
        [torch.randint(0, 255, (84, 56 + 28 * n, 3), dtype=torch.uint8) for n in range(count)] for count in counts
    ]
    return [
        Task(f"t{number}", tuple(Image.fromarray(one.numpy()) for one in images), "Which?", "7")
        for number, images in enumerate(pictures)
    ]


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def model(request):
    model = random_model(f"{request.param}-narrow")
    limited(model.processor, 56 * 56, None)
    model.network.eval()
    return model


VIEWS = EpisodeArguments(environment="views")


def maps(model, task):
    """Each layer's attention [heads, N, N] on a task's first message, and its token ids."""
    factory, renderer = environment_factory(VIEWS, model), make_renderer(VIEWS, model)
    messages = opening(factory(), task)
    ids = renderer.prompt_ids(messages, [])
    pictures = [block["image"] for block in messages[1]["content"] if block["type"] == "image"]
    model.network.set_attn_implementation({"text_config": "eager"})
    with torch.no_grad():
        found = model.network(**renderer.model_inputs([ids], [pictures]), output_attentions=True).attentions
    model.network.set_attn_implementation({"text_config": "sdpa"})
    return [layer[0] for layer in found], ids, renderer.image_token_id


def by_maps(model, tasks):
    """[layers, 3]: means over tasks of means over image tokens and heads, added up entry by entry."""
    sums = []
    for task in tasks:
        layers, ids, image_token_id = maps(model, task)
        image, numbers = -1, []
        for at, token in enumerate(ids):
            image += token == image_token_id and ids[at - 1] != image_token_id
            numbers.append(image if token == image_token_id else None)
        of_images = [at for at, number in enumerate(numbers) if number is not None]
        of_task = []
        for weights in layers:
            shares = [0.0, 0.0, 0.0]
            for q in of_images:
                for k in range(q + 1):
                    place = 2 if numbers[k] is None else 0 if numbers[k] == numbers[q] else 1
                    shares[place] += float(weights[:, q, k].mean()) / len(of_images)
            of_task.append(shares)
        sums.append(of_task)
    return torch.tensor(sums).mean(0)


def test_shares_are_those_of_the_maps(model):
    tasks = some_tasks([2, 3])
    found = analyse(model, [*tasks, *some_tasks([1])], VIEWS)
    assert torch.allclose(torch.tensor([one.shares for one in found]), by_maps(model, tasks), atol=1e-5)
    assert [one.num_tasks for one in found] == [2, 2]


def test_masked_layers_look_at_their_image_alone(model):
    [first, second] = analyse(model, some_tasks([2]), VIEWS)
    block_images(model.network, model.processor.tokenizer, [0])
    [masked, other] = analyse(model, some_tasks([2]), VIEWS)
    assert masked.shares == (1.0, 0.0, 0.0) and first.shares[0] < 1
    assert other.shares != second.shares  # it is the masked model that is watched


def test_tasks_of_one_image_alone_are_refused(model):
    with pytest.raises(ConfigError, match="several images"):
        analyse(model, some_tasks([1]), VIEWS)


def test_what_is_written_is_read_again(model, tmp_path):
    found = analyse(model, some_tasks([2, 2]), VIEWS)
    attention.write(found, tmp_path)
    again = attention.read(tmp_path / ATTENTION)
    assert [list(one.shares) for one in again] == [list(one.shares) for one in found]
    assert (tmp_path / "attention.csv").read_text().count("\n") == 3
    assert json.loads((tmp_path / ATTENTION).read_text())[0]["layer"] == 0


def test_a_report_draws_an_analysis_that_has_no_episodes_beside_it(tmp_path, monkeypatch, capsys):
    layers = [Shares(layer, (0.5, 0.3, 0.2), (0.1, 0.1, 0.1), 3) for layer in (0, 1)]
    attention.write(layers, tmp_path / "analysis")
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "analysis"), "--output", str(tmp_path / "report.html")])
    report.main()
    assert "attention of visual tokens to other images" in (tmp_path / "report.html").read_text()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="holds no episodes"):
        find_runs([tmp_path / "empty"])
