"""The one place where a task becomes a prompt: SFT, RL and evaluation all read it from here."""

from __future__ import annotations

SYSTEM_PROMPT = (
    "Answer the question about the image. Think inside <think></think>. If a detail is too small to read, "
    "zoom in with the tool, as often as needed. When you are sure, answer inside <answer></answer>."
)
