import pytest
import torch

from environments.factories import environment_factory
from environments.play import play
from environments.policies.oracle import OraclePolicy
from environments.rendering import Renderer
from environments.seats import Limits
from environments.trace_files import read_traces
from environments.traces import to_trace, write_traces
from fovea.boxes import Frame
from fovea.models.processors import pixel_limits
from sft.collator import TraceCollator
from synthesis.shapes import make_tasks


@pytest.fixture
def played(tiny, episode_arguments, tmp_path):
    """Collator, records and the episodes they came from, with tokens as a rollout would have them."""
    factory = environment_factory(episode_arguments, tiny)
    tasks = make_tasks(num_tasks=6, seed=8)
    episodes = play(OraclePolicy(Frame.PER_MILLE), tasks, environment_factory=factory, limits=Limits())
    write_traces(episodes, tmp_path)
    collator = TraceCollator(Renderer(tiny.processor), factory(), pixel_limits(tiny.processor))
    return collator, list(read_traces(tmp_path)), episodes


def test_loss_is_on_assistant_tokens_and_their_end_only(played):
    collator, records, episodes = played
    batch = collator(records)
    for labels, episode in zip(batch["labels"], episodes, strict=True):
        text = collator.renderer.tokenizer.decode(labels[labels != -100])
        assert text == "".join(f"{turn.text}<|im_end|>" for turn in episode.turns)


def test_a_trace_becomes_the_tokens_that_a_rollout_of_it_has(played, tiny, episode_arguments):
    collator, records, _ = played
    factory = environment_factory(episode_arguments, tiny)
    renderer = Renderer(tiny.processor)
    oracle = OraclePolicy(Frame.PER_MILLE)

    class Tokenised:
        def reply(self, conversations, *, max_tokens):
            from dataclasses import replace

            replies = oracle.reply(conversations, max_tokens=max_tokens)
            ends = renderer.tokenizer.eos_token_id
            return [replace(r, token_ids=(*renderer.tokenizer(r.text).input_ids, ends)) for r in replies]

    tasks = make_tasks(num_tasks=6, seed=8)
    for record, episode in zip(
        records, play(Tokenised(), tasks, environment_factory=factory, limits=Limits(), renderer=renderer), strict=True
    ):
        ids, mask, _ = collator.encode(to_trace(record))
        tokens = episode.tokens
        assert ids == list(tokens.prompt_ids + tokens.completion_ids)
        assert mask == [0] * len(tokens.prompt_ids) + list(tokens.loss_mask)


def test_the_model_takes_a_batch_of_traces_with_different_numbers_of_images(played, tiny):
    collator, records, _ = played
    loss = tiny.network(**collator(records)).loss
    assert torch.isfinite(loss)


def test_mm_cof_files_with_crops_in_user_turns_are_read(tiny, episode_arguments, picture, tmp_path):
    import json

    picture.save(tmp_path / "a.png")
    call = '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 9, 9]}}\n</tool_call>'
    messages = [
        {"role": "system", "content": "other prompt <tools></tools>"},
        {"role": "user", "content": "<image>\nWhich?"},
        {"role": "assistant", "content": f"<think>a</think>{call}"},
        {"role": "user", "content": "<image>\nGo on."},
        {"role": "assistant", "content": "<think>b</think><answer>c</answer>"},
    ]
    (tmp_path / "traces.jsonl").write_text(json.dumps({"messages": messages, "images": ["a.png", "a.png"]}) + "\n")
    renderer, environment = Renderer(tiny.processor), environment_factory(episode_arguments, tiny)()
    collator = TraceCollator(renderer, environment, pixel_limits(tiny.processor))
    ids, mask, images = collator.encode(to_trace(next(iter(read_traces(tmp_path)))))
    text = collator.renderer.tokenizer.decode(ids)
    assert "other prompt" not in text and text.count("<tool_response>") == 1 and len(images) == 2
    assert sum(mask) > 0


def test_too_long_or_empty_traces_are_refused(played):
    collator, records, _ = played
    collator.max_length = 10
    with pytest.raises(ValueError, match="more than max_length 10"):
        collator(records[:1])
    with pytest.raises(ValueError, match="no assistant turn"):
        collator.encode(type(to_trace(records[0]))(({"role": "user", "content": "q"},)))
