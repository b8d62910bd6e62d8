"""`fovea merge ADAPTER --output_dir DIR`: an adapter and its base as one ordinary model folder.

The settings of the adapter's training go along (run.json): `fovea eval` shows the merged model views and crops of the
sizes that it has learned from.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from fovea.commands import plain_parser
from fovea.models.loading import load_model
from fovea.models.names import expect_another_folder


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("adapter", help="folder or hub id of a PEFT adapter; it names its base itself")
    parser.add_argument("--output_dir", required=True, help="where the merged model and its processor go")
    parser.add_argument("--dtype", default="auto", help="weights' type: auto (the base's), bfloat16, float32")
    parser.add_argument("--push_to_hub", metavar="REPO_ID", help="also upload it there")
    args = parser.parse_args()
    expect_another_folder(args.output_dir, args.adapter)
    model = load_model(args.adapter, dtype=args.dtype)
    upload = {"push_to_hub": True, "repo_id": args.push_to_hub} if args.push_to_hub else {}
    model.network.save_pretrained(args.output_dir, **upload)
    model.processor.save_pretrained(args.output_dir, **upload)
    if (settings := Path(args.adapter) / "run.json").exists():
        shutil.copy(settings, args.output_dir)
    print(f"merged into {args.output_dir}")


if __name__ == "__main__":
    main()
