import hashlib
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from environments.factories import environment_factory
from environments.play import play
from environments.policies.oracle import OraclePolicy
from environments.seats import Limits
from fovea.boxes import Box, Frame, coverage, intersection
from fovea.data.identity import fingerprint, source_hash
from fovea.images import open_image
from synthesis.shapes import make_tasks
from synthesis.shapes.scenes import COLORS, DRAWING, render, sample_scene
from synthesis.shapes.tasks import Drawn
from synthesis.tiny.conversations import TOO_SMALL, sample_conversation, sample_follow_up
from synthesis.tiny.forms import in_some_form, sample_in_some_form
from synthesis.tiny.targets import dense_targets


@pytest.fixture(scope="module")
def tasks():
    return make_tasks(num_tasks=120, seed=5)


def test_the_same_seed_gives_the_same_tasks(tasks):
    again = make_tasks(num_tasks=3, seed=5)
    assert [task.images[0] for task in again] == [task.images[0] for task in tasks[:3]]
    assert make_tasks(num_tasks=1, seed=6)[0].images != tasks[0].images


def test_all_families_and_view_sizes_occur(tasks):
    families = Counter(task.family for task in tasks)
    assert set(families) == {"read", "compare", "nested", "direct"}
    assert len({task.first_view_max_pixels for task in tasks}) >= 2


def test_shapes_do_not_overlap():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample_scene(rng, num_shapes=6, num_panels=2)
        things = [*scene.shapes, *scene.panels]
        assert all(intersection(a.box, b.box) == 0 for a in things for b in things if a is not b)


def test_rendering_is_deterministic():
    scene = sample_scene(np.random.default_rng(1), num_shapes=4)
    assert render(scene).tobytes() == render(scene).tobytes()


def test_a_picture_is_told_apart_without_being_drawn(tasks, monkeypatch):
    monkeypatch.setattr("synthesis.shapes.tasks.render", lambda *_, **__: pytest.fail("it was drawn"))
    assert len({fingerprint(replace(task, question="", answer="")) for task in tasks}) == len(tasks)
    assert len({source_hash(task.images[0]) for task in tasks}) == len(tasks)
    assert list(map(fingerprint, make_tasks(num_tasks=120, seed=5))) == list(map(fingerprint, tasks))


def test_another_way_of_drawing_has_a_number_of_its_own():
    """If this fails, scenes look otherwise than before: raise `DRAWING`, and give its pictures a line here."""
    pictures = {1: "39ecb066a0c82924"}
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, num_shapes=6, num_panels=count % 3) for count in range(9)]
    shapes = [shape for scene in scenes for shape in scene.all_shapes]
    assert {shape.digit for shape in shapes} == {*range(10)} and {shape.color for shape in shapes} == {*COLORS}
    drawn = b"".join(Drawn(scene).read() for scene in scenes)
    assert hashlib.sha256(drawn).hexdigest()[:16] == pictures[DRAWING]


def test_the_oracle_solves_every_task_with_the_zooms_its_family_needs(tasks, tiny, episode_arguments):
    factory = environment_factory(episode_arguments, tiny)
    episodes = play(OraclePolicy(Frame.PER_MILLE), tasks, environment_factory=factory, limits=Limits())
    zooms = {"read": 1, "compare": 2, "nested": 2, "direct": 0}
    for episode in episodes:
        assert episode.answer == episode.task.answer
        assert episode.num_zooms == zooms[episode.task.family]
        assert all(turn.well_formed for turn in episode.turns)


def test_the_last_crop_of_the_oracle_holds_the_digit(tasks, tiny, episode_arguments):
    factory = environment_factory(episode_arguments, tiny)
    chosen = [task for task in tasks if task.family in ("read", "nested")]
    for episode in play(OraclePolicy(Frame.PER_MILLE), chosen, environment_factory=factory, limits=Limits()):
        digit = Box.of(episode.task.metadata["glyphs"][0], Frame.UNIT)
        assert coverage(digit, episode.crops[-1].region) > 0.99


def test_small_print_is_under_three_pixels_in_the_first_view(tasks):
    for task in tasks:
        if task.family in ("read", "compare"):
            _, y1, _, y2 = task.metadata["glyphs"][0]
            height = (y2 - y1) * task.metadata["view_px"]
            assert height < 3 or height == pytest.approx(0.094 * 64, rel=0.1)


def test_images_are_what_the_store_can_open(tasks):
    assert open_image(tasks[0].images[0]).width in (640, 1024)


def test_dense_targets_label_the_tokens_under_a_shape():
    rng = np.random.default_rng(0)
    picture = next(e.picture for e in sample_conversation(rng) if e.picture)
    targets = dense_targets(picture, token_px=16, num_bins=50)
    assert targets.shape == (picture.pixels.shape[0] * picture.pixels.shape[1] // 256, 7)
    assert (targets[:, 0] > 0).any() and (targets[targets[:, 0] == 0][:, 1:] == -100).all()


def test_follow_ups_ask_for_places_without_names_and_end_with_the_answer():
    for seed in range(30):
        exchanges = sample_follow_up(np.random.default_rng(seed))
        assert exchanges[0].picture is not None and exchanges[0].answer == TOO_SMALL
        assert exchanges[-1].answer in {"yes", "no", *"0123456789"}
        places = [e for e in exchanges if e.question.startswith("Where is")]
        assert places and not any(color in e.question for e in places for color in COLORS)
        digits = [e.answer for e in exchanges if e.question == "And here?"]
        assert digits[-1] == exchanges[-1].answer or exchanges[-1].question == "So?"


def test_forms_wrap_the_same_answers_and_say_how():
    for seed in range(60):
        plain = sample_follow_up(np.random.default_rng(seed))
        formed = in_some_form(plain, np.random.default_rng(seed))
        assert formed[0].question.startswith("Write ") and formed[0].question.endswith(plain[0].question)
        for before, after in zip(plain, formed, strict=True):
            place = re.search(r"\[\d.*?\]", before.answer)
            assert (place.group() if place else before.answer) in after.answer
            assert (before.picture, before.target) == (after.picture, after.target)


def test_pre_training_never_sees_the_zoom_protocol():
    for seed in range(300):
        for exchange in sample_in_some_form(np.random.default_rng(seed)):
            text = exchange.question + exchange.answer
            assert not re.search("think|tool|answer>|arguments|zoom|img_idx", text), text


def test_the_first_head_is_the_one_that_eager_attention_shows(tiny):
    from synthesis.tiny.encoding import Encoder
    from synthesis.tiny.losses import attention_of_first_head

    conversations = [sample_follow_up(np.random.default_rng(seed)) for seed in (0, 1)]
    batch = Encoder(tiny.processor).batch(conversations, filler="")
    for name in ("dense", "looks"):
        del batch[name]
    mask = batch["attention_mask"]
    with torch.no_grad(), attention_of_first_head(tiny.network, 2) as captured:
        tiny.network(**batch)
    tiny.network.set_attn_implementation({"text_config": "eager"})
    with torch.no_grad():
        expected = tiny.network(**batch, output_attentions=True).attentions[2][:, 0]
    assert torch.allclose(captured[0][mask == 1], expected[mask == 1], atol=1e-5)


def test_a_place_in_the_first_view_is_looked_for_there(tiny):
    from synthesis.tiny.encoding import Encoder

    seeds = (seed for seed in range(99) if len(sample_follow_up(np.random.default_rng(seed))) == 6)
    exchanges = sample_follow_up(np.random.default_rng(next(seeds)))
    encoder = Encoder(tiny.processor)
    encoded = encoder.encode(exchanges)
    ids, looks = encoded.ids, encoded.looks
    starts = [index for index, token in enumerate(ids) if token == encoder.image_id and ids[index - 1] != token]
    second_place = looks[2]
    assert len(starts) == 3 and all(starts[0] <= token < starts[1] for token in second_place.tokens)
