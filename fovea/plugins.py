"""Objects of the user's own, named by dotted path (`package.module:name`) or by file (`./rewards.py:name`)."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def taken(function: Callable, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a function of the user's own names; all of them if it takes any (`**row`)."""
    parameters = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def load_object(name: str) -> Any:
    """The object that `module:name`, `module.name` or `./file.py:name` points to.

    Raises:
        ValueError: if the name has no such form, or nothing is there.
    """
    source, _, attribute = name.rpartition(":") if ":" in name else name.rpartition(".")
    if not source or not attribute:
        raise ValueError(f"{name!r} names nothing: write package.module:name or ./file.py:name")
    module = _load_file(Path(source)) if source.endswith(".py") else _import(source, name)
    if not hasattr(module, attribute):
        names = [key for key in vars(module) if not key.startswith("_")]
        raise ValueError(f"{source} has no {attribute!r}; it has {', '.join(names) or 'nothing'}")
    return getattr(module, attribute)


def _import(module_name: str, name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise ValueError(f"{name!r}: there is no module {error.name!r}") from error


def _load_file(path: Path) -> Any:
    if not path.exists():
        raise ValueError(f"no file at {path}: the path is relative to the current folder")
    module_name = f"_plugin_{path.resolve().stem}_{abs(hash(str(path.resolve())))}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    kept = list(sys.path)
    sys.path.insert(0, str(path.resolve().parent))  # its neighbours may be imported, as when it is run
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]  # half of it is none
        raise
    finally:
        sys.path[:] = kept
    return module
