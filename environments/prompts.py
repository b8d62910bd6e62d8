"""The system prompts of our environments, the same in SFT, RL and evaluation."""

from __future__ import annotations

SYSTEM_PROMPT = (
    "Answer the question about the image. Think inside <think></think>. If a detail is too small to read, "
    "zoom in with the tool, as often as needed. When you are sure, answer inside <answer></answer>."
)
"""Of the zoom environment."""

TOOLS_PROMPT = (
    "Answer the question. Think inside <think></think>. Call the tools, as often as needed. When you are sure, answer "
    "inside <answer></answer>."
)
"""Of environments that say nothing of their own, and have tools."""

VIEWS_PROMPT = (
    "Answer the question about the images. Think inside <think></think>, then answer inside <answer></answer>."
)

FOCUS_PROMPT = (
    "Answer the question about the images, which are shown small. Think inside <think></think>. Go by sub-questions: "
    "for each, focus on the few images that it needs to see them at full size, and zoom in if a detail is too small to "
    "read. When you are sure, answer inside <answer></answer>."
)

CHAIN_PROMPT = (
    "Answer the question about the images. Think inside <think></think>, by sub-questions in lines of this form:\n"
    "Question 1: …\nImages: numbers of the images that it needs, from 0\nAnswer: …\nStop: yes or no\n"
    "Then answer inside <answer></answer>."
)
