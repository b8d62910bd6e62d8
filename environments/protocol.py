"""The action grammar: what a model's turn says, read strictly and never evaluated.

Tool calls are Hermes JSON in `<tool_call>` tags, answers stand in `<answer>` tags. A turn's actions are all tool calls
after its thoughts, in order, or else its answer.
"""

from __future__ import annotations

import json
import re

from fovea.episodes import Action, Answer, Call, Fault, FaultKind, NoAction

MAX_CALL_CHARACTERS = 4096
MAX_CALLS = 8
"""Tool calls that are carried out in one turn."""
CALL_EXAMPLE = '{"name": "<tool>", "arguments": {…}}'
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def behind_thoughts(text: str) -> tuple[str, str]:
    """A turn's thoughts with their end tag, and what stands behind them, where alone calls and answers count.

    >>> behind_thoughts("<think>no <answer> yet</think><answer>7</answer>")
    ('<think>no <answer> yet</think>', '<answer>7</answer>')
    """
    head, end, body = text.rpartition("</think>")
    return head + end, body


def parse_actions(text: str) -> list[Action]:
    """The actions in one assistant text: its tool calls, at most `MAX_CALLS` of them, or one answer, or none.

    >>> parse_actions("<think>clear</think><answer> 7 </answer>")
    [Answer(text='7')]
    >>> parse_actions("I do not know")
    [NoAction()]
    """
    _, body = behind_thoughts(text)
    calls = [_parse_call(call) for call in _CALL.findall(body)]
    if len(calls) > MAX_CALLS:
        too_many = f"A turn may hold {MAX_CALLS} tool calls. The others were not carried out."
        return [*calls[:MAX_CALLS], Fault(FaultKind.TOO_MANY_CALLS, too_many)]
    if calls:
        return list(calls)
    answer = _ANSWER.search(body)
    return [Answer(answer.group(1).strip()) if answer else NoAction()]


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
    """Returns True if a turn keeps the format exactly: thoughts once, then calls or one answer, and nothing else."""
    head, thought, body = text.partition("</think>")
    if not thought or not head.strip().startswith("<think>") or "<think>" in head.strip()[7:] or "</think>" in body:
        return False
    body = body.strip()
    tags = [body.count(tag) for tag in ("<tool_call>", "</tool_call>", "<answer>", "</answer>")]
    if tags[0] and tags == [tags[0], tags[0], 0, 0]:
        return not _CALL.sub("", body).strip() and all(isinstance(action, Call) for action in parse_actions(text))
    return tags == [0, 0, 1, 1] and body.startswith("<answer>") and body.endswith("</answer>")


def escape_control_tokens(text: str, *others: str) -> str:
    """Text that no longer holds a control token such as `<|image_pad|>`, nor `others`, when it re-enters a prompt.

    Half of a surrogate pair, which JSON can spell and no tokenizer reads, becomes a question mark.
    """
    text = text.encode("utf-8", errors="replace").decode()
    for token in ("<|", *others):
        text = text.replace(token, f"{token[0]}\u200b{token[1:]}")
    return text
