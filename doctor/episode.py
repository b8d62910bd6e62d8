"""Checks of an episode: its prompt, its tokens in the loss, its length."""

from __future__ import annotations

import re
from collections.abc import Sequence

from doctor.environment import NUM_SHOWN, ZOOM, Subject, zoomed
from doctor.findings import Note, colored, evenly
from environments.focus import FOCUS_TOOL
from environments.rendering import Renderer
from environments.seats import begin, opening, tools_of
from fovea.boxes import WHOLE
from fovea.chains import chain_of_task


def hidden_tools(note: Note, subject: Subject) -> None:
    """A chat template that leaves the tools out of the prompt."""
    environment = subject.make_environment()
    tools = tools_of(environment)
    task = subject.tasks[0]
    messages = opening(environment, task)
    ids = subject.renderer.prompt_ids(messages, list(tools.values()))
    if tools and ids == subject.renderer.prompt_ids(messages, []):
        note.fail(f"the chat template leaves out the tools {list(tools)}", "use a template that shows tools")
        return
    if not subject.renderer.tokenizer.decode(ids).rstrip().endswith(("assistant", "<think>")):
        note.warn("the prompt does not end where an assistant's turn begins", "look at the chat template")
    marked = sum("<|" in task.question for task in subject.tasks)
    also = f"; control tokens in {marked} questions are escaped" if marked else ""
    note.ok(f"tools in the prompt: {', '.join(tools) or 'none'}{also}")


def refused_zooms(note: Note, subject: Subject) -> None:
    """A zoom that the environment refuses; shows the episode, with the tokens that carry loss."""
    with_images = [task for task in subject.tasks if task.images] or list(subject.tasks)
    played = subject.play(with_images[:1])[0]
    record = played.record
    show_tokens(subject.renderer, record.prompt_ids, [0] * len(record.prompt_ids))
    show_tokens(subject.renderer, record.completion_ids, record.loss_mask)
    if ZOOM in tools_of(subject.make_environment()) and with_images[0].images and not played.num_zooms:
        reason = played.faults[0].message if played.faults else f"the episode ended by {played.stop_reason.value}"
        note.fail(f"no zoom into the middle of the image: {reason}", "see boxes above, or raise --max_turns")
        return
    note.ok(f"{sum(record.loss_mask)} of {len(record.completion_ids)} completion tokens carry loss")


def show_tokens(renderer: Renderer, ids: Sequence[int], mask: Sequence[int]) -> None:
    """Prints token ids as text: what carries loss in colour, runs of image placeholders as one."""
    parts: list[tuple[int, list[int]]] = []
    for token, counts in zip(ids, mask, strict=True):
        if not parts or parts[-1][0] != counts:
            parts.append((counts, []))
        parts[-1][1].append(token)
    pad = re.escape(renderer.image_token)
    for counts, tokens in parts:
        text = re.sub(f"(?:{pad})+", lambda run: f"[{len(run[0]) // len(renderer.image_token)} image tokens]",
                      renderer.tokenizer.decode(tokens))  # fmt: skip
        lines = (f"      {'loss' if counts else '    '} | {line}" for line in text.strip("\n").split("\n"))
        print(colored("\n".join(lines), "32" if counts else "2"))


def overlong_episodes(note: Note, subject: Subject, engine_length: int | None) -> int:
    """Episodes that fit neither the model nor their own budget; returns the tokens of the longest prompt of some tasks.

    `engine_length` is the longest sequence that vLLM was told to take, if it plays.
    """
    prompt, views, crop = _longest(subject)
    budget = subject.limits.max_completion_tokens
    positions = subject.model.network.config.get_text_config().max_position_embeddings
    context = min(positions, engine_length or positions)
    if prompt + budget > context:
        image_tokens = sum(views) - (prompt + budget - context)
        cure = f"lower max_episode_tokens to {max(0, context - prompt)}, or max_pixels"
        note.fail(
            f"a prompt of {prompt} tokens and max_episode_tokens {budget} do not fit into {context}",
            f"{cure}, or give --max_image_tokens {image_tokens}" if image_tokens > 0 else cure,
        )
        return prompt
    turns = subject.limits.max_turns
    full = turns * subject.limits.max_tokens_per_turn + (turns - 1) * crop
    if full > budget:
        note.warn(
            f"{turns} full turns with images of up to {crop} tokens take {full}, more than max_episode_tokens "
            f"{budget}: the last zooms of such an episode end it",
            "raise max_episode_tokens, or lower crop_max_pixels",
        )
    shown = f" ({len(views)} images of {min(views)} to {max(views)} tokens: {sum(views):,} in all)" if views else ""
    note.ok(f"prompts of up to {prompt} tokens{shown}, episodes of up to {budget} behind them, context {context}")
    return prompt


def _longest(subject: Subject) -> tuple[int, list[int], int]:
    """Tokens of the longest prompt of some tasks, of each image in it, and of the largest crop or focus."""
    environment, renderer = subject.make_environment(), subject.renderer
    tools = tools_of(environment)
    prompt, shown, crop = 0, list[int](), 0
    for task in evenly(subject.tasks, NUM_SHOWN):
        conversation = begin(environment, task, renderer)
        views, length = conversation.images, len(conversation.token_ids)
        several = len(views) > 1
        if length > prompt:
            prompt, shown = length, [seen.num_tokens for seen in renderer.inputs_of(conversation.token_ids, views)]
        if views and ZOOM in tools:
            whole = zoomed(environment, views[0], views[0], WHOLE, subject.frame)
            crop = max(crop, renderer.image_inputs(whole, among_several=several).num_tokens)
        if views and FOCUS_TOOL in tools:
            chain = chain_of_task(task)
            most = max((step.images for step in chain.steps), key=len) if chain and chain.steps else (0,)
            brought = [block["image"] for block in tools[FOCUS_TOOL]("?", list(most)) if block["type"] == "image"]
            seen = (renderer.image_inputs(image, among_several=several) for image in brought)
            crop = max(crop, sum(image.num_tokens for image in seen))
    return prompt, shown, crop
