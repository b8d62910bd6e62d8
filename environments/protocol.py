"""The action grammar: what a model's turn says, read strictly and never evaluated.

Tool calls are Hermes JSON in `<tool_call>` tags, answers stand in `<answer>` tags. A turn's action is the first tool
call after its thoughts, or else its answer.
"""

from __future__ import annotations

import json
import re

from fovea.episodes import Action, Answer, Call, Fault, FaultKind, NoAction

MAX_CALL_CHARACTERS = 4096
CALL_EXAMPLE = '{"name": "<tool>", "arguments": {…}}'
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def parse_action(text: str) -> Action:
    """The action in one assistant text.

    >>> parse_action("<think>clear</think><answer> 7 </answer>")
    Answer(text='7')
    >>> parse_action("I do not know")
    NoAction()
    """
    body = text.rpartition("</think>")[2]
    call = _CALL.search(body)
    if call:
        return _parse_call(call.group(1))
    answer = _ANSWER.search(body)
    return Answer(answer.group(1).strip()) if answer else NoAction()


def _parse_call(text: str) -> Call | Fault:
    if len(text) > MAX_CALL_CHARACTERS:
        return Fault(FaultKind.BAD_JSON, f"The tool call is longer than {MAX_CALL_CHARACTERS} characters. Shorten it.")
    try:
        data = json.loads(text, parse_constant=float)
    except (ValueError, RecursionError):
        return Fault(FaultKind.BAD_JSON, f"The tool call is not valid JSON. Write {CALL_EXAMPLE}.")
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        return Fault(FaultKind.BAD_JSON, f"The tool call has no name. Write {CALL_EXAMPLE}.")
    arguments = data.get("arguments", {})
    if not isinstance(arguments, dict):
        return Fault(FaultKind.BAD_ARGUMENTS, f"The arguments must be a JSON object. Write {CALL_EXAMPLE}.")
    return Call(data["name"], arguments)


def is_well_formed(text: str) -> bool:
    """Whether a turn keeps the format to the letter: thoughts once, then one call or one answer, and nothing else."""
    head, thought, body = text.partition("</think>")
    if not thought or not head.strip().startswith("<think>") or "<think>" in head.strip()[7:] or "</think>" in body:
        return False
    body = body.strip()
    tags = [body.count(tag) for tag in ("<tool_call>", "</tool_call>", "<answer>", "</answer>")]
    if tags == [1, 1, 0, 0]:
        return body.startswith("<tool_call>") and body.endswith("</tool_call>") and isinstance(parse_action(text), Call)
    return tags == [0, 0, 1, 1] and body.startswith("<answer>") and body.endswith("</answer>")


def escape_control_tokens(text: str, *others: str) -> str:
    """Text that no longer holds a control token such as `<|image_pad|>`, nor `others`, when it re-enters a prompt."""
    for token in ("<|", *others):
        text = text.replace(token, f"{token[0]}\u200b{token[1:]}")
    return text
