"""Cold starts and rollouts agree token for token with the vocabulary that Qwen released, control tokens included.

Its ranks come with a public SDK (`dashscope`); the ids of its special tokens are published.
"""

import base64
import random
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import play
from environments.rendering import Renderer
from environments.seats import Limits, Reply
from environments.trace_files import read_traces
from environments.traces import to_trace, write_traces
from fovea.models.loading import Model
from fovea.models.processors import pixel_limits
from fovea.models.random_models import random_model
from fovea.tasks import Task
from sft.collator import TraceCollator

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("dashscope") is None, reason="dashscope is not installed")]
NUM_CASES, NUM_TURNS = 60, 10_000
"""Of each of two families."""
SPECIAL = """
    <|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
    <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>
    """.split()  # noqa: SIM905
PLAIN = """
    <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>
    <tool_response> </tool_response> <think> </think>
    """.split()  # noqa: SIM905
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_of(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The last merge that makes a token: of its parts by all lower ranks, two are left."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        place = pairs.index(min(pairs))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    lines = (Path(find_spec("dashscope").origin).parent / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    assert len(ranks) == 151_643
    table = bytes_to_unicode()
    text = {token: "".join(table[byte] for byte in token) for token in ranks}
    merges = [tuple(text[part] for part in split_of(token, ranks)) for token in ranks if len(token) > 1]
    assert len(merges) == 151_387
    made = Tokenizer(models.BPE({text[token]: rank for token, rank in ranks.items()}, merges, ignore_merges=False))
    made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN])
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
                              "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"},
    )  # fmt: skip
    assert found.convert_tokens_to_ids(["<|im_end|>", "<|image_pad|>", "</think>"]) == [151_645, 151_655, 151_668]
    assert found("Hello, world! 12").input_ids == [9707, 11, 1879, 0, 220, 16, 17]
    return found


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def model(request, tokenizer) -> Model:
    return random_model(f"{request.param}-narrow", tokenizer=tokenizer)


def words(draw: random.Random, *, length: int) -> str:
    """Text of all scripts, with tags, control tokens and placeholders spelled in it."""
    parts = [
        *("The sign says", "7 or 9?", "\n\n", "  ", "é è ñ", "招牌上写着", "🙂", "\u200d", "لافتة", "{", '"', "\\"),
        *("<image>", r"\<image>", "<|", "|>", "<", ">", "<|im_end|>", "<|image_pad|>", "<|vision_start|>"),
        *("<|endoftext|>", "<|box_start|>", "<tool_response>", "<think>", "Answer:"),
    ]
    return "".join(draw.choice(parts) + draw.choice(("", " ")) for _ in range(length))


class Script:
    """Writes random turns: thoughts, one or two calls, right and wrong ones, and an answer in the end."""

    def __init__(self, renderer: Renderer, draw: random.Random, number: int) -> None:
        self.tokenizer, self.draw, self.left = renderer.tokenizer, draw, number

    def reply(self, conversations, *, max_tokens):
        self.left -= 1
        thought = f"<think>{words(self.draw, length=8).replace('<think>', '')}</think>\n"
        box = sorted(self.draw.sample(range(0, 280, 4), 4))
        call = f'{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {[box[0], box[1], box[2], box[3]]}}}}}'
        calls = [call, '{"name": "other", "arguments": {}}', "{broken"]
        written = "\n".join(
            f"<tool_call>\n{self.draw.choice(calls)}\n</tool_call>" for _ in range(self.draw.choice((1, 2)))
        )
        text = thought + (written if self.left else f"<answer>{words(self.draw, length=2)}</answer>")
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return [Reply(self.tokenizer.decode(ids), (*ids, self.tokenizer.eos_token_id))]


def test_a_trace_becomes_the_tokens_of_the_rollout_that_it_was_written_from(model, tmp_path):
    renderer = Renderer(model.processor)
    factory = environment_factory(EpisodeArguments(), model)
    collator = TraceCollator(renderer, factory(), pixel_limits(model.processor))
    draw = random.Random(0)
    for case in range(NUM_CASES):
        size = draw.choice(((300, 280), (560, 310), (280, 280)))
        pixels = np.random.default_rng(case).integers(0, 255, size=(size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
        images = [Image.fromarray(pixels).resize(size)] * draw.choice((1, 1, 2))
        task = Task(f"c{case}", tuple(images), words(draw, length=5) or "?", "7")
        policy = Script(renderer, draw, draw.choice((1, 2, 3)))
        limits = Limits(4, 4000, 20_000)
        [episode] = play(policy, [task], environment_factory=factory, limits=limits, renderer=renderer)
        folder = tmp_path / str(case)
        write_traces([episode], folder)
        ids, mask, shown = collator.encode(to_trace(next(iter(read_traces(folder)))))
        record = episode.record
        assert ids == list(record.prompt_ids + record.completion_ids), case
        assert mask[len(record.prompt_ids) :] == list(record.loss_mask)
        assert len(shown) == len(record.images)
        renderer.check(ids, [renderer.image_inputs(image) for image in shown], name=f"case {case}")


def test_no_text_of_a_turn_becomes_a_control_token(model):
    renderer = Renderer(model.processor)
    collator = TraceCollator(renderer, environment_factory(EpisodeArguments(), model)(), pixel_limits(model.processor))
    special = set(renderer.tokenizer.convert_tokens_to_ids(SPECIAL))

    def controls(ids: list[int]) -> list[int]:
        return [token for token in ids if token in special]

    expected = controls(renderer.observation_ids([{"type": "text", "text": "q"}]))
    draw = random.Random(1)
    for _ in range(NUM_TURNS):
        text = words(draw, length=draw.choice((1, 3, 6)))
        cut = draw.randrange(len(text) + 1)
        blocks = [{"type": "text", "text": text[:cut]}, {"type": "text", "text": text[cut:]}]
        assert controls(renderer.observation_ids(blocks)) == expected, text
        assert controls(collator.written_ids(text)) == [renderer.tokenizer.eos_token_id], text
