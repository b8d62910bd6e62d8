"""Settings and helpers that the tests' trainings share."""

import json
import os


def trace_record(box, paths):
    """A line of traces.jsonl: a zoom into `box` as it is written, and the answer; `paths` of the view and the crop."""
    call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": box}}
    messages = [
        {"role": "user", "content": "<image>Which?"},
        {"role": "assistant", "content": f"<think>I look.</think>\n<tool_call>\n{json.dumps(call)}\n</tool_call>"},
        {"role": "tool", "content": "<image>"},
        {"role": "assistant", "content": "<think>I see.</think>\n<answer>7</answer>"},
    ]
    return {"messages": messages, "images": [str(path) for path in paths]}


ON_CPU = {
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
    "use_cpu": True,
    "seed": 0,
}


def by_place(task, episodes):
    """A reward in which the rollouts of a group differ, whatever the base writes."""
    return [float(place) for place in range(len(episodes))]


def unlaunched() -> dict[str, str]:
    """The environment without what a launcher sets, which TRL leaves behind where vLLM ran in this process."""
    launched = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in launched}
