"""Resolution of model names: `tiny`, a local folder, a hub id, or a PEFT adapter on top of one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fovea.config import ConfigError
from fovea.hub import leads_to_a_file

TINY = Path(__file__).resolve().parent.parent / "tiny"
EMBEDDED = {"tiny": TINY}
"""The shipped weights, by name."""
ADAPTER_CONFIG = "adapter_config.json"


def resolve_path(name: str) -> str:
    """The path or hub id of a model name: shipped weights (`EMBEDDED`), a folder's absolute path, else the name itself.

    Raises:
        FileNotFoundError: for a folder without a model, or a path that leads nowhere: no hub is asked for it.
    """
    if name in EMBEDDED:
        return str(EMBEDDED[name])
    path = Path(name)
    if not path.exists() and leads_to_a_file(name):
        raise FileNotFoundError(f"the model folder {name} does not exist: train it first, or give a hub id")
    if path.is_dir() and not holds_model(path):
        numbered = [folder for folder in path.glob("checkpoint-*") if folder.name.partition("-")[2].isdigit()]
        checkpoints = sorted(numbered, key=lambda folder: int(folder.name.partition("-")[2]))
        hint = f"; did you mean {checkpoints[-1]}?" if checkpoints else ""
        raise FileNotFoundError(
            f"{name} holds no model, neither config.json nor adapter_config.json: name the folder of a checkpoint{hint}"
        )
    return str(path.resolve()) if path.is_dir() else name


def adapter_chain(name: str, *, revision: str | None = None) -> tuple[str, list[str]]:
    """The whole model that `name` stands on, and the adapters on it, the first applied first; none of a whole model.

    A base that an adapter names by a relative path is looked for below each folder above the adapter, then here. The
    hub is asked whether a model there is an adapter, which is then downloaded.

    Raises:
        FileNotFoundError: if an adapter's base is not there.
        ValueError: if an adapter names no base, or adapters stand on each other in a circle.
    """
    path = _downloaded_adapter(name, revision) or resolve_path(name)
    adapters: list[str] = []
    while (config := Path(path) / ADAPTER_CONFIG).exists():
        if path in adapters:
            raise ValueError(f"{name} stands on itself: {' -> '.join([*reversed(adapters), path])}")
        adapters.insert(0, path)
        base = json.loads(config.read_text()).get("base_model_name_or_path")
        if not base:
            raise ValueError(f"{config} names no base_model_name_or_path: write the model there that it was trained on")
        around = [str(folder / base) for folder in Path(path).resolve().parents]
        found = [place for place in around if holds_model(place) and place not in adapters]
        try:
            path = _downloaded_adapter([*found, base][0], None) or resolve_path([*found, base][0])
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the adapter {path} stands on {base}, which is not there ({error}): bring it back, or write its place "
                f"into base_model_name_or_path of {config}"
            ) from None
    return path, adapters


def weights_mark(name: str) -> str:
    """A hash that is another one once the weights that a name leads to have changed; of an adapter those below it too.

    Files are read at a hundred places each. A model of the hub is known by its commit.

    Raises:
        FileNotFoundError: as `adapter_chain`.
    """
    base, adapters = adapter_chain(name)
    marks = hashlib.sha256()
    for path in (base, *adapters):
        files = sorted(file for kind in _WEIGHTS for file in Path(path).glob(kind)) if Path(path).is_dir() else []
        marks.update(b"".join(map(_file_mark, files)) or f"{path} {_commit(path)}".encode())
    return marks.hexdigest()[:16]


_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")


def _file_mark(file: Path) -> bytes:
    """The size of a file, its beginning, and parts of the rest."""
    size, mark = file.stat().st_size, hashlib.sha256()
    mark.update(f"{file.name} {size}".encode())
    with file.open("rb") as stream:
        for place in range(0, size, max(4096, size // 100)):
            stream.seek(place)
            mark.update(stream.read(4096))
    return mark.digest()


def _commit(name: str) -> str | None:
    """The commit of a hub's model that was downloaded."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        return extract_commit_hash(cached_file(name, "config.json", local_files_only=True), None)
    except OSError:
        return None


def holds_model(folder: str | Path) -> bool:
    """Returns True if a folder holds a whole model or an adapter."""
    return any((Path(folder) / file).exists() for file in ("config.json", ADAPTER_CONFIG))


def expect_another_folder(output_dir: str | Path | None, name: str, *, revision: str | None = None) -> None:
    """Raises ConfigError for an output folder that holds this model, its adapter or the base below it."""
    base, adapters = adapter_chain(name, revision=revision)
    if output_dir and Path(output_dir).resolve() in [Path(path).resolve() for path in (base, *adapters)]:
        raise ConfigError(f"--output_dir {output_dir} holds the model that this starts from: name another folder")


def base_of(name: str) -> str:
    """The whole model that an adapter stands on in the end, as a path or hub id; of a whole model, its own."""
    return adapter_chain(name)[0]


def _downloaded_adapter(name: str, revision: str | None) -> str | None:
    """The folder to which the hub's adapter of this name was downloaded; None for anything else."""
    from transformers.utils import find_adapter_config_file

    if Path(resolve_path(name)).is_dir():
        return None
    config = find_adapter_config_file(name, revision=revision)
    if config is None:
        return None
    from huggingface_hub import snapshot_download

    return snapshot_download(name, revision=revision)
