"""`fovea merge ADAPTER --output_dir DIR`: an adapter and its base as one ordinary model folder.

The settings of the adapter's training go along (run.json): `fovea eval` shows the merged model views and crops of the
sizes that it has learned from. So does its model card (README.md).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import create_repo, upload_folder

from fovea.commands import plain_parser, refuse_written
from fovea.config import ConfigError
from fovea.models.loading import load_model
from fovea.models.names import adapter_chain, expect_another_folder
from fovea.runs.checkpoints import KEPT_HERE
from fovea.runs.model_card import of_merged


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("adapter", help="folder or hub id of a PEFT adapter; it names its base itself")
    parser.add_argument("--output_dir", required=True, help="where the merged model and its processor go")
    parser.add_argument("--dtype", default="auto", help="weights' type: auto (the base's), bfloat16, float32")
    parser.add_argument("--push_to_hub", metavar="REPO_ID", help="also upload it there")
    args = parser.parse_args()
    try:
        expect_another_folder(args.output_dir, args.adapter)
        if not adapter_chain(args.adapter)[1]:
            raise ConfigError(f"{args.adapter} is a whole model already, not an adapter: it loads as it is")
        refuse_written(Path(args.output_dir) / "config.json")
        model = load_model(args.adapter, dtype=args.dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    model.network.save_pretrained(args.output_dir)
    model.processor.save_pretrained(args.output_dir)
    adapter, folder = Path(args.adapter), Path(args.output_dir)
    if (settings := adapter / "run.json").exists():
        shutil.copy(settings, folder)
    if (card := adapter / "README.md").exists():
        (folder / "README.md").write_text(of_merged(card.read_text(), adapter, args.push_to_hub or str(folder)))
    if args.push_to_hub:
        repository = create_repo(args.push_to_hub, exist_ok=True)
        upload_folder(repo_id=repository.repo_id, folder_path=folder, ignore_patterns=list(KEPT_HERE))
    print(f"merged into {args.output_dir}")


if __name__ == "__main__":
    main()
