"""Intra-image attention against the oracle: one dense mask, written down token by token."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache

from environments.policies.decoding import Decoder
from environments.rendering import Renderer, batched
from fovea.arguments import PlayerArguments
from fovea.config import ConfigError
from fovea.kernels.image_blocks import (
    KEY,
    TURN,
    ImageBlocks,
    block_images,
    image_blocks,
)
from fovea.kernels.layouts import allow_layouts
from fovea.kernels.masked_layouts import OUTSIDE, number_images
from fovea.kernels.packing import Row, pack
from fovea.models.loading import load_model
from fovea.models.masks import parse_layers, save_beside_adapter
from fovea.models.random_models import random_model
from tests.families import llava_onevision, qwen2_vl

MASKED = 0
"""The layer of the two that is masked: in the last one a mask of images changes no logit of text."""


def of_family(name):
    if name in ("qwen2_5_vl", "qwen3_vl"):
        model = random_model(f"{name}-narrow")
        return model.network, model.processor
    torch.manual_seed(0)
    return {"qwen2_vl": qwen2_vl, "llava_onevision": llava_onevision}[name]()


class Conversations:
    """Conversations of a family as token ids and images; numbers in a script are images of their own size."""

    def __init__(self, name):
        self.network, self.processor = of_family(name)
        self.network.eval()
        block_images(self.network, self.processor.tokenizer, [MASKED])
        self.renderer = Renderer(self.processor)
        self.image_token_id = self.renderer.image_token_id

    def row(self, *script):
        """Token ids, each token's image (None for text), whether the conversation is masked, and its images' inputs."""
        ids, images, inputs = [], [], []
        self.pictures = []
        turn = script.index(TURN) if TURN in script else len(script)
        masked = sum(isinstance(part, int) for part in script[:turn]) > 1
        for part in script:
            if isinstance(part, str):
                new = self.processor.tokenizer(part, add_special_tokens=False).input_ids
                images += [None] * len(new)
            else:
                torch.manual_seed(part)
                pixels = torch.randint(0, 255, (56 + 28 * (part % 3), 56 + 56 * (part % 2), 3), dtype=torch.uint8)
                self.pictures.append(Image.fromarray(pixels.numpy()))
                inputs.append(self.renderer.image_inputs(self.pictures[-1], among_several=masked))
                new = [self.image_token_id] * inputs[-1].num_tokens
                images += [len(inputs) - 1] * len(new)
            ids += new
        return ids, images if masked else [None] * len(ids), inputs

    def batch(self, rows, *, left=True):
        longest = max(len(ids) for ids, *_ in rows)
        input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for number, (ids, *_) in enumerate(rows):
            at = slice(longest - len(ids), None) if left else slice(len(ids))
            input_ids[number, at], mask[number, at] = torch.tensor(ids), 1
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if "mm_token_type_ids" in self.processor.model_input_names:
            inputs["mm_token_type_ids"] = (input_ids == self.image_token_id).long()
        return inputs | batched([image for *_, found in rows for image in found])


def dense(rows, longest, left):
    """[rows, 1, N, N]: what may be seen in the masked layer, by the words of the paper."""
    allowed = torch.eye(longest, dtype=torch.bool).repeat(len(rows), 1, 1, 1)
    for number, (ids, images, _) in enumerate(rows):
        start = longest - len(ids) if left else 0
        for q, image in enumerate(images):
            for k in range(q + 1):
                allowed[number, 0, start + q, start + k] = image is None or images[k] == image
    return allowed


def by_oracle(network, masks):
    """The network, whose masked layer attends by `masks` and whose other by Transformers."""

    def attention(module, q, k, v, mask, scaling, **kwargs):
        seen = masks[0] if module.layer_idx == MASKED else masks[1]
        found = scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scaling, enable_gqa=True)
        return found.transpose(1, 2), None

    AttentionInterface.register("oracle", attention)
    network.base_model._forward_pre_hooks.clear()
    network.set_attn_implementation({"text_config": "oracle"})
    return network


def gradients(network, logits, weights):
    network.zero_grad()
    (logits * weights).sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision")
SEVERAL = ("Look: ", 1, " and ", 2, 3, " which?", TURN, "one ", 4, "more words")
ONE = ("A longer question about ", 5, "?", TURN, "a crop", 6, "and another", 7, "so it is.")


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_padded_batch_equals_a_dense_mask(name, left):
    them = Conversations(name)
    between = SEVERAL if name == "llava_onevision" else tuple(p for part in SEVERAL for p in (part, "."))
    rows = [them.row(*between), them.row(*ONE), them.row("no image at all")]
    inputs = them.batch(rows, left=left)
    shown = inputs["attention_mask"].bool()
    weights = torch.randn(*shown.shape, them.network.config.get_text_config().vocab_size) * shown[..., None]
    ours = them.network(**inputs).logits
    found = gradients(them.network, ours, weights)
    masks = (
        dense(rows, shown.shape[1], left),
        dense([(ids, [None] * len(ids), i) for ids, _, i in rows], shown.shape[1], left),
    )
    oracle = by_oracle(them.network, masks)(**inputs).logits
    wanted = gradients(them.network, oracle, weights)
    assert torch.allclose(ours[shown], oracle[shown], atol=1e-5)
    assert found.keys() == wanted.keys()
    for parameter in found:
        scale = max(1.0, float(wanted[parameter].abs().max()))
        assert torch.allclose(found[parameter] / scale, wanted[parameter] / scale, atol=1e-5), parameter


def plain_forward(them, rows):
    """Logits of each row, from one padded forward without a cache."""
    inputs = them.batch(rows)
    with torch.no_grad():
        logits = them.network(**inputs, use_cache=False).logits
    return [row[mask.bool()] for row, mask in zip(logits, inputs["attention_mask"], strict=True)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cached_forward_equals_one_without(name):
    """Prefill, a chunk with crops in it, then token by token; rows of several images and of one side by side."""
    them = Conversations(name)
    second = (5, " or ", 6) if name == "llava_onevision" else (1,)  # beside one of several its crops have other lengths
    rows = [
        them.row("Look: ", 1, " and ", 2, " which?", TURN, "abc ", 4, " x ", 3, " def."),
        them.row("Here: ", *second, " which image is it?", TURN, "a", 4, " x ", 3, " def."),
    ]
    inputs = them.batch(rows)
    with torch.no_grad():
        whole = them.network(**inputs, use_cache=False).logits
        positions = None
        if name != "llava_onevision":
            extents = {key: inputs[key] for key in ("image_grid_thw", "mm_token_type_ids", "attention_mask")}
            positions, _ = them.network.model.get_rope_index(inputs["input_ids"], **extents)
        length = inputs["input_ids"].shape[1]
        turn_ids, last = (
            them.processor.tokenizer(text, add_special_tokens=False).input_ids for text in (TURN, " def.")
        )
        first = max(length - len(ids) + ids.index(turn_ids[0]) + len(turn_ids) for ids, *_ in rows)
        cache, found, at = DynamicCache(config=them.network.config), [], 0
        for end in (first, length - len(last), *range(length - len(last) + 1, length + 1)):
            step = {"input_ids": inputs["input_ids"][:, at:end], "attention_mask": inputs["attention_mask"][:, :end]}
            images = [
                [image for place, image in places(ids, found_images, them.image_token_id, length) if at <= place < end]
                for ids, _, found_images in rows
            ]
            step |= batched([image for row in images for image in row])
            if positions is not None:
                step |= {
                    "position_ids": positions[:, :, at:end],
                    "mm_token_type_ids": inputs["mm_token_type_ids"][:, at:end],
                }
            found.append(them.network(**step, past_key_values=cache, use_cache=True).logits)
            at = end
    shown = inputs["attention_mask"].bool()
    assert torch.allclose(torch.cat(found, dim=1)[shown], whole[shown], atol=1e-5)


def places(ids, images, image_token_id, length):
    """The first place of each image of a row in its left-padded batch."""
    starts = [at for at, token in enumerate(ids) if token == image_token_id and ids[at - 1] != image_token_id]
    return [(length - len(ids) + start, image) for start, image in zip(starts, images, strict=True)]


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_writes_what_forwards_without_a_cache_would(name):
    them = Conversations(name)
    between = () if name == "llava_onevision" else (" and ",)
    rows = [them.row("Look: ", 1, *between, 2, " which?", TURN), them.row("Here: ", 1, " which?", TURN)]
    inputs = them.batch(rows)
    output = them.network.generate(
        **inputs, max_new_tokens=6, do_sample=False, eos_token_id=None, return_dict_in_generate=True, output_logits=True
    )
    written = output.sequences
    new = written[:, inputs["input_ids"].shape[1] :].tolist()
    for place, ((ids, images, found), row) in enumerate(zip(rows, new, strict=True)):
        for number, token in enumerate(row):
            [logits] = plain_forward(them, [([*ids, *row[:number]], images, found)])
            assert int(logits[-1].argmax()) == token
            assert torch.allclose(output.logits[number][place], logits[-1], atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("lone", [False, True], ids=["several", "lone"])
def test_packed_groups_equal_a_padded_batch(name, lone):
    """Two groups, one of them of several images, crops in the branches: log-probabilities and gradients."""
    them = Conversations(name)
    allow_layouts(them.network)
    prompts = [
        ("System. ", 1, " and ", 2, "-", 3, " which?", TURN),
        ("System. ", *((5,) if lone else (5, "x", 6)), " what?", TURN),
    ]
    ends = [("one ", 4, "more"), ("so",), ("a", 7, "b", 8, " c")]
    rows = [them.row(*prompt, *end) for prompt in prompts for end in ends]
    starts = [len(them.row(*prompt)[0]) for prompt in prompts for _ in ends]
    in_prompt = [len(them.row(*prompt)[2]) for prompt in prompts for _ in ends]
    packed = pack(
        them.network,
        [
            Row(ids[:start], ids[start:], [(i.pixel_values, i.extent) for i in images], number)
            for (ids, _, images), start, number in zip(rows, starts, in_prompt, strict=True)
        ],
        image_token_id=them.image_token_id,
    )
    results = []
    logits = them.network(**packed.inputs).logits[0, packed.predicting]
    results.append((logits, gradients(them.network, logits, weights := torch.randn_like(logits))))
    inputs = them.batch(rows, left=False)
    logits = them.network(**inputs).logits
    logits = torch.stack(
        [logits[row, starts[row] + column - 1] for row, column in zip(packed.rows, packed.columns, strict=True)]
    )
    results.append((logits, gradients(them.network, logits, weights)))
    (ours, found), (oracle, wanted) = results
    assert torch.allclose(ours, oracle, atol=1e-5)
    for parameter in wanted:
        scale = max(1.0, float(wanted[parameter].abs().max()))
        assert torch.allclose(found[parameter] / scale, wanted[parameter] / scale, atol=1e-5), parameter


class Given:
    """Chooses given tokens, whatever the logits, which it keeps by row."""

    def __init__(self, written):
        self.written, self.logits = written, [[] for _ in written]

    def choose(self, logits_of_unfinished, turns):
        rows = [row for row, ids in enumerate(self.written) if len(self.logits[row]) < len(ids)]
        for row, logits in zip(rows, logits_of_unfinished, strict=True):
            self.logits[row].append(logits)
        return torch.tensor([self.written[row][len(self.logits[row]) - 1] for row in rows])


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_kept_turns_equal_a_forward_of_the_whole(name):
    """Three turns of conversations that share prompts, images in them, crops between turns."""
    them = Conversations(name)
    allow_layouts(them.network)
    first = ("System. ", 1, " and ", 2, "-", 3, " which?", TURN, " ")
    openings = [first, first, ("System. ", 5, " what?", TURN, " "), ("System. ", 6, "x", 1, " what?", TURN, " ")]
    crops = [("<r>", 4, " go"), (" no crop",), ("<r>", 7, "and", 8, " go"), ("<r>", 2, " go on")]
    said = [["ab", "c"], ["abcd", "xyz"], ["e", "f"], ["gh", "ij"]]
    decoder = Decoder(them.network, them.renderer, max_rows=8)
    talks = [SimpleNamespace(token_ids=[], images=[], cache=None, turn_seed=None) for _ in openings]
    scripts = [()] * len(talks)
    for turn in range(2):
        written = [them.processor.tokenizer(text[turn], add_special_tokens=False).input_ids for text in said]
        for number, talk in enumerate(talks):
            scripts[number] += openings[number] if turn == 0 else crops[number]
            talk.token_ids, _, _ = them.row(*scripts[number])
            talk.images = list(them.pictures)
        given = Given(written)
        with torch.no_grad():
            for talk, ids in zip(talks, written, strict=True):
                decoder.submit(talk, len(ids))
            turns = {}
            while len(turns) < len(talks):
                turns |= {id(turn.conversation): turn.token_ids for turn in decoder.advance(given.choose)}
            assert [turns[id(talk)] for talk in talks] == written
        for number, text in enumerate(said):
            scripts[number] += (text[turn],)
            [whole] = plain_forward(them, [them.row(*scripts[number])])
            expected = whole[-len(written[number]) - 1 : -1]
            assert torch.allclose(torch.stack(given.logits[number]), expected, atol=1e-5), (turn, number)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_that_peeks_is_caught(name):
    """With all layers masked nothing of an image depends on the one before it; with one layer open it does."""
    them = Conversations(name)
    texts = [them.row("Look: ", first, " and ", 2, " which?", TURN) for first in (1, 7)]
    at = [place for place, image in enumerate(texts[0][1]) if image == 1]
    assert texts[0][0] == texts[1][0]  # the same tokens, another picture

    def states():
        with torch.no_grad():
            found = [them.network(**them.batch([row]), output_hidden_states=True).hidden_states[-1] for row in texts]
        return [states[0, at] for states in found], [states[0, -1] for states in found]

    of_image, of_text = states()
    assert not torch.equal(*of_image)
    block_images(them.network, them.processor.tokenizer, [0, 1])
    of_image, of_text = states()
    assert torch.equal(*of_image) and not torch.equal(*of_text)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_image_is_forwarded_as_without_a_mask_to_the_last_bit(name):
    them = Conversations(name)
    rows = [them.row(*ONE), them.row("Look: ", 1, " and ", 2, " which?", TURN)]
    inputs = them.batch(rows)
    with torch.no_grad():
        masked = them.network(**inputs).logits
        delattr(them.network.config, KEY)
        plain = them.network(**inputs).logits
    shown = inputs["attention_mask"].bool()
    assert torch.equal(masked[0][shown[0]], plain[0][shown[0]])
    assert not torch.equal(masked[1][shown[1]], plain[1][shown[1]])


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_forwards_the_same_mask_twice(name):
    them = Conversations(name)
    inputs = them.batch([them.row("Look: ", 1, " and ", 2, " which?", TURN), them.row(*ONE)])
    weights = torch.randn(*inputs["input_ids"].shape, them.network.config.get_text_config().vocab_size)
    weights *= inputs["attention_mask"][..., None]
    plain = gradients(them.network, them.network(**inputs, use_cache=False).logits, weights)
    them.network.gradient_checkpointing_enable({"use_reentrant": False})
    them.network.train()
    again = gradients(them.network, them.network(**inputs, use_cache=False).logits, weights)
    assert all(torch.allclose(plain[name], again[name], atol=1e-5) for name in plain)


def test_images_are_numbered_and_a_lone_one_of_the_first_message_is_not_masked():
    blocks = ImageBlocks(frozenset([0]), (7, 8), image_token_id=9)
    assert blocks.images_of([1, 9, 9, 2, 9, 7, 8, 9]) == [-1, 0, 0, -1, 1, -1, -1, 2]
    assert blocks.images_of([1, 9, 9, 7, 2, 7, 8, 9, 1, 9]) == [OUTSIDE] * 10
    assert blocks.images_of([9, 7, 9, 8]) == [0, -1, 1, -1]  # the first turn needs all of its tokens
    assert number_images([9, 9, 9, 1, 9], 9, iter([1, 2, 1])) == [0, 1, 1, -1, 2]


@pytest.mark.parametrize("lengths", [[1, 1], [2, 2], [4], [0, 3, 1]], ids=str)
def test_features_that_are_not_those_of_the_placeholders_are_refused(lengths):
    with pytest.raises(ValueError, match="placeholders are left for it"):
        number_images([9, 9, 9, 1, 9], 9, iter(lengths))


@pytest.mark.parametrize("layers", [[], [2], [-1, 0]])
def test_layers_that_a_model_does_not_have_are_refused(layers):
    model = random_model("qwen3_vl-narrow")
    with pytest.raises(ValueError, match="0 to 1"):
        block_images(model.network, model.processor.tokenizer, layers)


@pytest.mark.parametrize("text", ["", "3-", "5-3", "a", "1,,2", "-1", "²"])
def test_layers_that_are_no_numbers_are_refused(text):
    with pytest.raises(ValueError, match="write numbers and ranges"):
        parse_layers(text)


def test_eager_attention_is_refused():
    model = random_model("qwen3_vl-narrow")
    model.network.set_attn_implementation({"text_config": "eager"})
    with pytest.raises(ValueError, match="use sdpa or flash"):
        block_images(model.network, model.processor.tokenizer, [0])


@pytest.mark.parametrize(
    "wrong", [{"input_ids": None}, {"attention_mask": torch.zeros(1, 1, 4, 4)}, {"cu_seq_lens_q": 1}]
)
def test_a_forward_whose_images_cannot_be_told_is_refused(wrong):
    model = random_model("qwen3_vl-narrow")
    block_images(model.network, model.processor.tokenizer, [0])
    with pytest.raises(ValueError, match="input_ids"):
        model.network(**({"input_ids": torch.zeros(1, 4, dtype=torch.long)} | wrong))


def test_checkpoints_and_adapters_keep_the_mask_and_engines_refuse_it(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = random_model("qwen3_vl-narrow")
    model.network.save_pretrained(tmp_path / "base")
    model.processor.save_pretrained(tmp_path / "base")
    block_images(model.network, model.processor.tokenizer, [1])
    model.network.save_pretrained(tmp_path / "whole")
    model.processor.save_pretrained(tmp_path / "whole")
    adapter = get_peft_model(model.network, LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    adapter.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapter.save_pretrained(tmp_path / "adapter")
    save_beside_adapter(adapter, tmp_path / "adapter")
    assert image_blocks(load_model(str(tmp_path / "base")).network) is None
    for name in ("whole", "adapter"):
        loaded = load_model(str(tmp_path / name)).network
        assert image_blocks(loaded) == image_blocks(model.network)
        assert len(loaded.base_model._forward_pre_hooks) == 1
    for engine in ({"use_vllm": True}, {"vllm_server_base_url": "http://x"}, {"openai_base_url": "http://x/v1"}):
        with pytest.raises(ConfigError, match="intra-image"):
            PlayerArguments(model_name_or_path=str(tmp_path / "whole"), **engine).load_model()
    with pytest.raises(ConfigError, match="intra-image"):
        PlayerArguments(model_name_or_path=str(tmp_path / "adapter"), openai_base_url="http://x/v1").load_model()
    PlayerArguments(
        model_name_or_path=str(tmp_path), openai_base_url="http://x/v1"
    ).load_model()  # a name, and no model
    delattr(model.network.config, KEY)
    save_beside_adapter(adapter, tmp_path / "adapter")  # trained anew in the same folder, without a mask
    assert image_blocks(load_model(str(tmp_path / "adapter")).network) is None


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision"])
def test_images_behind_half_a_prompt_are_refused_since_nothing_has_been_decided(name):
    them = Conversations(name)
    inputs = them.batch([them.row("Look: ", 1, " and ", 2, " which?", TURN)])
    with pytest.raises(ValueError, match="Prefill prompts whole"):
        them.network.generate(**inputs, max_new_tokens=2, prefill_chunk_size=5)
    with torch.no_grad():
        cache = them.network(input_ids=torch.ones(1, 3, dtype=torch.long), use_cache=True).past_key_values
        them.network(input_ids=torch.ones(1, 2, dtype=torch.long), past_key_values=cache)  # text is as ever


@pytest.mark.parametrize("settings", [{"attention_dropout": 0.5}, {"layer_types": ["sliding_attention"] * 2}], ids=str)
def test_attention_that_is_not_over_all_before_is_refused(settings):
    model = random_model("qwen3_vl-narrow")
    for name, value in settings.items():
        setattr(model.network.config.get_text_config(), name, value)
    with pytest.raises(ValueError, match="sliding windows or attention_dropout"):
        block_images(model.network, model.processor.tokenizer, [0])


def test_layers_may_be_one_number_as_yaml_reads_it():
    assert parse_layers(14) == [14]
