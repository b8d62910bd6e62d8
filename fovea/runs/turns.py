"""A turn as a JSON object, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fovea.boxes import Box
from fovea.episodes import Action, Answer, Call, Crop, Fault, FaultKind, Focus, NoAction, Observation, Turn

_ACTIONS: dict[str, type] = {"call": Call, "answer": Answer, "fault": Fault, "no_action": NoAction}


def turn_to_json(turn: Turn) -> dict[str, Any]:
    """The turn, JSON-ready."""
    observation = None
    if turn.observation is not None:
        crops = [asdict(crop) | {"region": crop.region.to_dict()} for crop in turn.observation.crops]
        observation = {"text": turn.observation.text, "crops": crops}
        if turn.observation.foci:
            observation["foci"] = list(map(asdict, turn.observation.foci))
    line: dict[str, Any] = {"text": turn.text, "action": _action_to_json(turn.action), "observation": observation,
            "num_tokens": turn.num_tokens, "well_formed": turn.well_formed}  # fmt: skip
    if turn.more_actions:
        line["more_actions"] = list(map(_action_to_json, turn.more_actions))
    return line


def action_name(action: Action) -> str:
    """`call`, `answer`, `fault` or `no_action`."""
    return next(name for name, kind in _ACTIONS.items() if isinstance(action, kind))


def _action_to_json(action: Action) -> dict[str, Any]:
    return {"type": action_name(action), **asdict(action)}


def _action_from_json(line: Mapping[str, Any]) -> Action:
    values = dict(line)
    kind = _ACTIONS[values.pop("type")]
    if kind is Fault:
        values["kind"] = FaultKind(values["kind"])
    return kind(**values)


def turn_from_json(line: Mapping[str, Any]) -> Turn:
    """The turn of such an object."""
    observation = None
    if line["observation"] is not None:
        crops = tuple(
            Crop(crop["img_idx"], crop["root"], Box.from_dict(crop["region"]), tuple(crop["input_size"]))
            for crop in line["observation"]["crops"]
        )
        foci = tuple(
            Focus(tuple(focus["images"]), focus["question"], focus["answered"])
            for focus in line["observation"].get("foci", ())
        )
        observation = Observation(line["observation"]["text"], crops, foci)
    more = tuple(map(_action_from_json, line.get("more_actions", ())))
    action = _action_from_json(line["action"])
    return Turn(line["text"], action, observation, line["num_tokens"], line["well_formed"], more)
