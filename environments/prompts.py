"""The system prompt of the zoom protocol, the same in SFT, RL and evaluation."""

from __future__ import annotations

SYSTEM_PROMPT = (
    "Answer the question about the image. Think inside <think></think>. If a detail is too small to read, "
    "zoom in with the tool, as often as needed. When you are sure, answer inside <answer></answer>."
)
