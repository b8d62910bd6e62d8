"""Kept caches change no token: greedy turns equal those of `generate`, and prompts are computed once."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from environments.play import Sampling
from environments.policies.decoding import OpenTurn
from environments.policies.drafts import CONTEXT, Drafts
from environments.policies.transformers import TransformersPolicy, _draw
from environments.policies.turn_cache import NARROW, TurnCache
from environments.rendering import Renderer
from environments.seats import Conversation
from fovea.kernels.packing import num_common
from fovea.models.loading import Model, freeze_vision
from fovea.models.random_models import random_model


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def model(request) -> Model:
    built = random_model(f"{request.param}-narrow")
    freeze_vision(built.network)
    return built


def picture(seed: int, *, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def image_blocks(image: Image.Image, text: str) -> list[dict]:
    return [{"type": "image", "image": image}, {"type": "text", "text": text}]


def play_two_turns(
    model: Model, *, keep_caches: bool, temperature: float = 0.0, drafts: Drafts | None = None
) -> tuple[list, TransformersPolicy]:
    """Two prompts, three rollouts each; after the first turn some rows get a crop, some a text, one has ended."""
    renderer = Renderer(model.processor)
    policy = TransformersPolicy(model.network, renderer, Sampling(temperature), keep_caches=keep_caches)
    if drafts is not None:
        policy.decoder.drafts = drafts
    conversations = []
    for seed, question in enumerate(["What?", "Where is the small thing, please?"]):
        image = picture(seed, width=280 + 64 * seed, height=280)
        messages = [{"role": "user", "content": image_blocks(image, question)}]
        ids = renderer.prompt_ids(messages, [])
        conversations += [Conversation(None, messages, list(ids), [image], seed=3 * seed + row) for row in range(3)]
    turns = [policy.reply(conversations, max_tokens=[9, 4, 7, 5, 9, 1])]
    for row, (conversation, reply) in enumerate(zip(conversations, turns[0], strict=True)):
        crop = picture(10 + row, width=280, height=280 + 56 * (row % 2))
        blocks = image_blocks(crop, "closer") if row % 3 else [{"type": "text", "text": "no such tool, try again"}]
        conversation.token_ids += [*reply.token_ids, *renderer.observation_ids(blocks)]
        conversation.images += [crop] if row % 3 else []
    active = conversations[:2] + conversations[3:]
    for _ in range(2):
        turns.append(policy.reply(active, max_tokens=[6, 6, 3, 6, 2]))
        for conversation, reply in zip(active, turns[-1], strict=True):
            blocks = [{"type": "text", "text": "go on"}]
            conversation.token_ids += [*reply.token_ids, *renderer.observation_ids(blocks)]
    return [[reply.token_ids for reply in replies] for replies in turns], policy


@pytest.mark.parametrize("room", [256, 2])
def test_greedy_turns_equal_those_of_generate(model, room, monkeypatch):
    """Also when a turn outgrows the room it began with."""
    monkeypatch.setattr("environments.policies.decoding.ROOM", room)
    stock, _ = play_two_turns(model, keep_caches=False)
    ours, _ = play_two_turns(model, keep_caches=True)
    assert ours == stock


class Told(Drafts):
    """Guesses that are made up: by what each context is followed."""

    def __init__(self, following: dict) -> None:
        super().__init__()
        self.following = following

    def learn(self, ids, num_written) -> None:
        for place in range(len(ids) - num_written, len(ids)):
            self.following[tuple(ids[place - CONTEXT : place])] = ids[place]

    def after(self, ids, most) -> list[int]:
        guessed = []
        while len(guessed) < most and (token := self.following.get(tuple([*ids, *guessed][-CONTEXT:]))) is not None:
            guessed.append(token)
        return guessed


def num_forwards(model: Model, played: Callable[[], tuple[list, TransformersPolicy]]) -> tuple[list, int]:
    seen = []
    handle = model.network.base_model.language_model.register_forward_pre_hook(lambda *_: seen.append(1))
    try:
        return played()[0], len(seen)
    finally:
        handle.remove()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guesses_change_no_token(model, temperature):
    """Right, wrong, and right at every other place; right ones save forwards."""
    play = partial(play_two_turns, model, keep_caches=True, temperature=temperature)
    told = Told({})
    told.after = lambda ids, most: []
    alone, forwards = num_forwards(model, partial(play, drafts=told))
    right = told.following
    wrong = {context: (token + 1) % 100 for context, token in right.items()}
    mixed = {context: token if place % 2 else 5 for place, (context, token) in enumerate(right.items())}
    for following in (right, wrong, mixed):
        tokens, needed = num_forwards(model, partial(play, drafts=Told(dict(following))))
        assert tokens == alone
        assert following is not right or needed < 0.7 * forwards


@pytest.mark.parametrize(("most_scores", "widest"), [(2**27, NARROW), (0, 1)])
def test_scores_are_kept_of_few_tokens_alone(model, most_scores, widest, monkeypatch):
    """Of a whole prompt they would be its square, of many rows of guesses gigabytes; no token depends on it."""
    expected, _ = play_two_turns(model, keep_caches=True)
    widths, attend = [], TurnCache._attend_few
    monkeypatch.setattr("environments.policies.turn_cache.MOST_SCORES", most_scores)
    monkeypatch.setattr(
        TurnCache, "_attend_few", lambda self, q, *rest: widths.append(q.shape[2]) or attend(self, q, *rest)
    )
    drafts = Drafts()
    played = [play_two_turns(model, keep_caches=True, drafts=drafts)[0] for _ in range(3)]
    assert played == [expected] * 3 and max(widths) <= widest
    assert most_scores == 0 or any(width > 1 for width in widths)


def test_what_turns_repeat_is_guessed(model):
    """The third of equal rollouts takes fewer forwards, and writes the same."""
    drafts = Drafts()
    played = [num_forwards(model, partial(play_two_turns, model, keep_caches=True, drafts=drafts)) for _ in range(3)]
    assert played[0][0] == played[2][0] and played[2][1] < played[0][1]


def go_on_at_once(model: Model, *, keep_caches: bool, max_rows: int) -> tuple[list, TransformersPolicy]:
    """Nine conversations of up to three turns, each turn begun as soon as the one before has ended."""
    renderer = Renderer(model.processor)
    policy = TransformersPolicy(
        model.network, renderer, Sampling(temperature=0.0), batch_size=max_rows, keep_caches=keep_caches
    )
    written = {}
    for row in range(9):
        image = picture(row // 3, width=280 + 64 * (row // 3), height=280)
        messages = [{"role": "user", "content": image_blocks(image, "What is there?" + " Say." * (row // 6))}]
        conversation = Conversation(None, messages, renderer.prompt_ids(messages, []), [image])
        policy.submit(conversation, max_tokens=3 + 4 * (row % 3))
        written[id(conversation)] = (row, conversation, [])
    left = 3 * len(written) - 2
    while left:
        for conversation, reply in policy.finished():
            row, _, turns = written[id(conversation)]
            turns.append(reply.token_ids)
            left -= 1
            if len(turns) < (1 if row == 4 else 3):
                crop = picture(20 + row, width=280, height=280)
                blocks = image_blocks(crop, "closer") if row % 2 else [{"type": "text", "text": "try again"}]
                conversation.token_ids += [*reply.token_ids, *renderer.observation_ids(blocks)]
                conversation.images += [crop] if row % 2 else []
                policy.submit(conversation, max_tokens=2 + row)
    policy.abandon()
    return [turns for _, _, turns in written.values()], policy


@pytest.mark.parametrize("max_rows", [64, 4, 1])
def test_turns_that_join_others_are_those_of_generate(model, max_rows, monkeypatch):
    """Rows enter their next turn, and new rows begin, while others still write."""
    monkeypatch.setattr("environments.policies.decoding.ROOM", 2)
    stock, _ = go_on_at_once(model, keep_caches=False, max_rows=64)
    ours, policy = go_on_at_once(model, keep_caches=True, max_rows=max_rows)
    assert ours == stock
    assert policy.decoder._batch is None and not policy.decoder._waiting


def test_no_turn_waits_for_the_longest(model):
    """One row that writes for long does not keep another from its second turn."""
    renderer = Renderer(model.processor)
    policy = TransformersPolicy(model.network, renderer, Sampling(temperature=0.0))
    image = picture(0, width=280, height=280)
    messages = [{"role": "user", "content": image_blocks(image, "What?")}]
    long, short = (Conversation(None, messages, renderer.prompt_ids(messages, []), [image]) for _ in range(2))
    policy.submit(long, max_tokens=30)
    policy.submit(short, max_tokens=2)
    for _ in range(3):
        [(conversation, reply)] = policy.finished()
        assert conversation is short
        short.token_ids += [*reply.token_ids, *renderer.observation_ids([{"type": "text", "text": "go on"}])]
        policy.submit(short, max_tokens=2)
    policy.abandon()


def test_a_prompt_is_prefilled_once_however_late_its_rows_begin(model):
    """Five rollouts of a prompt, of which two are written at a time."""
    renderer = Renderer(model.processor)
    policy = TransformersPolicy(model.network, renderer, Sampling(temperature=0.0), batch_size=2)
    image = picture(0, width=280, height=280)
    messages = [{"role": "user", "content": image_blocks(image, "What?")}]
    ids = renderer.prompt_ids(messages, [])
    replies = policy.reply([Conversation(None, messages, list(ids), [image]) for _ in range(5)], max_tokens=[4] * 5)
    assert len({reply.token_ids for reply in replies}) == 1
    assert policy.decoder.reader.num_prefilled == len(ids) - 1


def test_each_distinct_prompt_is_prefilled_once(model):
    _, policy = play_two_turns(model, keep_caches=True)
    renderer = policy.renderer
    prompts = []
    for seed, question in enumerate(["What?", "Where is the small thing, please?"]):
        image = picture(seed, width=280 + 64 * seed, height=280)
        prompts.append(renderer.prompt_ids([{"role": "user", "content": image_blocks(image, question)}], []))
    common = num_common(prompts, renderer.image_token_id)
    assert common > 2
    assert policy.decoder.reader.num_prefilled == sum(len(prompt) - 1 for prompt in prompts) - common


def test_a_frozen_tower_encodes_each_image_once(model):
    calls = []
    visual = model.network.base_model.visual
    handle = visual.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["grid_thw"]), with_kwargs=True
    )
    model.network.base_model.image_features.features.clear()
    try:
        play_two_turns(model, keep_caches=True)
        encoded = sum(len(grids) for grids in calls)
        play_two_turns(model, keep_caches=False)
    finally:
        handle.remove()
    assert encoded == sum(len(grids) for grids in calls) == 2 + 3


def test_a_trainable_tower_is_never_remembered(model):
    network = model.network
    processed = model.processor.image_processor(images=[picture(0, width=280, height=280)], return_tensors="pt")
    pixels = (processed["pixel_values"], processed["image_grid_thw"])
    weight = next(network.base_model.visual.parameters())
    weight.requires_grad_(True)
    try:
        features = network.base_model.get_image_features(*pixels).pooler_output[0]
    finally:
        weight.requires_grad_(False)
    assert features.requires_grad


def open_turns(number: int, *, seeded: bool) -> list[OpenTurn]:
    return [OpenTurn(None, 1, draws=np.random.default_rng(row) if seeded else None) for row in range(number)]


@pytest.mark.parametrize("seeded", [False, True])
def test_sampling_follows_temperature_top_k_and_top_p(model, seeded):
    renderer = Renderer(model.processor)
    logits = torch.randn(1, model.network.config.text_config.vocab_size).repeat(200, 1)
    logits[:, renderer.placeholder_ids] = 100.0
    turns = open_turns(200, seeded=seeded)
    chosen = TransformersPolicy(model.network, renderer, Sampling(temperature=2.0, top_k=3))._chooser()(logits, turns)
    likely = logits[0].masked_fill(logits[0] == 100, -100).topk(3).indices
    assert set(chosen.tolist()) == set(likely.tolist())
    policy = TransformersPolicy(model.network, renderer, Sampling(temperature=1.0, top_p=1e-6))
    assert len(set(policy._chooser()(logits, turns).tolist())) == 1


@pytest.mark.parametrize("seeded", [False, True])
def test_tokens_are_drawn_as_often_as_they_are_likely(seeded):
    shares = torch.tensor([0.5, 0.0, 0.3, 0.0, 0.2, 0.0])
    chosen = _draw(shares.repeat(4000, 1), open_turns(4000, seeded=seeded))
    found = torch.bincount(chosen, minlength=6) / 4000
    assert (found[shares == 0] == 0).all() and torch.allclose(found, shares, atol=0.03)


def test_every_end_token_of_the_model_ends_a_turn_in_both_ways(model):
    """Qwen's released generation_config names two; a turn that ends in the second is no truncated one."""
    second = model.processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    renderer = Renderer(model.processor, end_ids=[second])
    image = picture(0, width=280, height=280)
    messages = [{"role": "user", "content": image_blocks(image, "What?")}]
    for keep_caches in (True, False):
        policy = TransformersPolicy(model.network, renderer, Sampling(0.0), keep_caches=keep_caches)
        head = model.network.get_output_embeddings()
        handle = head.register_forward_hook(
            lambda module, args, logits: logits.index_fill(-1, torch.tensor([second]), 99.0)
        )
        conversation = Conversation(None, messages, renderer.prompt_ids(messages, []), [image])
        [reply] = policy.reply([conversation], max_tokens=[5])
        handle.remove()
        assert (reply.token_ids, reply.text, reply.is_truncated) == ((second,), "", False)


def test_a_released_generation_config_does_not_change_what_is_sampled(model):
    """Neither way to sample takes penalties or defaults that nobody asked for."""
    plain, _ = play_two_turns(model, keep_caches=False)
    released = GenerationConfig(repetition_penalty=1.9, temperature=0.1, top_k=1, top_p=0.001, do_sample=True)
    kept, model.network.generation_config = model.network.generation_config, released
    try:
        assert play_two_turns(model, keep_caches=False)[0] == plain == play_two_turns(model, keep_caches=True)[0]
    finally:
        model.network.generation_config = kept
