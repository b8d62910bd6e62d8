"""Lessons of the eyes of served chains ask as the builder asks, and agree with its scripted roles."""

import json

import numpy as np

from benchmarks.chain_eyes import Library, answer, encoded, lesson
from benchmarks.chains_served import Writer
from fovea.images import image_hash
from synthesis.chains.chats import WORDS
from synthesis.chains.roles import UNKNOWN, Draft, Link, Profile, Relation


def test_a_reply_is_learned_behind_the_very_prompt_that_a_server_is_given(tiny):
    """No token spans the end of a prompt and the beginning of a reply."""
    rng = np.random.default_rng(0)
    library = Library.drawn(rng, 60)
    lessons = [lesson(library, rng) for _ in range(8)]
    batch = encoded(tiny, lessons)
    tokenizer = tiny.processor.tokenizer
    for (blocks, reply), ids, labels in zip(lessons, batch["input_ids"], batch["labels"], strict=True):
        learned = labels != -100
        assert tokenizer.decode(labels[learned]) == reply + tokenizer.eos_token
        messages = [{"role": "user", "content": blocks}]
        prompt = tiny.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        images = [block["image"] for block in blocks if block["type"] == "image"]
        [expected] = tiny.processor(text=[prompt], images=images)["input_ids"]
        before = ids[~learned & (ids != tokenizer.pad_token_id)].tolist()
        assert before == [token for token in expected if token != tokenizer.pad_token_id]


def test_the_writer_asks_what_the_eyes_can_answer_from_all_images_alone():
    rng = np.random.default_rng(1)
    library = Library.drawn(rng, 200)
    first = library.any(rng)
    name, digit = next(iter(first[1].items()))
    second = library.with_another(rng, name, digit)
    writer = Writer({image_hash(image): digits for image, digits in (first, second)})
    told = json.loads(writer.reply(WORDS["annotate"].format(shared=name), [first[0], second[0]]))
    relation = Relation.of(told)
    links = [Link(3, 0, name, relation)]
    asked = WORDS["ask"].format(
        profiles="", links=f"Image 3 to image 0 ({relation.kind}): {relation.words}", count=len(links)
    )
    draft = Draft.of(json.loads(writer.reply(asked, [])), links, num_images=4)
    shown = {3: first[1], 0: second[1]}
    assert draft.chain.answer == answer(draft.question, shown) == f"{first[1][name]}, {second[1][name]}"
    [step] = draft.chain.steps
    assert answer(step.question, shown) == step.answer
    for number in shown:
        assert answer(draft.question, {number: shown[number]}) == UNKNOWN


def test_the_writer_connects_by_what_it_is_told():
    writer = Writer({})

    def asked(*objects):
        profiles = [Profile.from_json({"overview": "two shapes", "objects": [one]}).to_json() for one in objects]
        first, second = map(json.dumps, profiles)
        return json.loads(writer.reply(WORDS["connect"].format(first=first, second=second), []))

    cross, other = ({"name": "cross", "attributes": ["red", digit]} for digit in "12")
    assert asked(cross, other) == {"connected": True, "by": "red cross"}
    assert not asked(cross, cross)["connected"]
    assert not asked(cross, {"name": "cross", "attributes": ["blue", "2"]})["connected"]
