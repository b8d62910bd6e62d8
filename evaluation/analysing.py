"""Options and parsing that the analyses of finished evaluations share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.discover import evaluations_to_compare
from evaluation.stored import StoredRun
from fovea.commands import plain_parser
from fovea.runs.records import SAMPLES


def analyse(
    description: str | None,
    analysis: Callable[[StoredRun], Mapping[str, Any]],
    table: Callable[[Mapping[str, Mapping[str, Any]]], str],
) -> None:
    """The command that analyses evaluations: prints a table of dataclasses by evaluation and group, and writes JSON.

    Raises:
        SystemExit: where `analysis` raises ValueError, with its message.
    """
    parser = plain_parser(description)
    parser.add_argument("runs", nargs="+", type=Path, metavar="EVALUATION", help="folders of evaluations")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    try:
        found = {str(folder): analysis(StoredRun(_only_evaluation(folder), SAMPLES)) for folder in args.runs}
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(table(found))
    if args.json:
        content = {name: {group: asdict(one) for group, one in groups.items()} for name, groups in found.items()}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=2) + "\n")


def _only_evaluation(folder: Path) -> Path:
    """The folder of the evaluation that `folder` stands for.

    Raises:
        SystemExit: if there is none, or more than one.
    """
    folders = list(evaluations_to_compare(folder).values())
    if len(folders) > 1:
        raise SystemExit(f"{folder} holds several evaluations: name one of {', '.join(map(str, folders))}")
    return folders[0]
