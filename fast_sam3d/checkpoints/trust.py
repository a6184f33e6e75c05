"""Allowlist of the classes and functions that the YAML files of a stock checkpoint may name.

Hydra calls whatever `_target_` names, so a YAML file is a program. The stock loader allows four root packages and
refuses some functions (notebook/inference.py): this permits `torch.hub.load` and `torch.os.system.__call__`, ignores
the files that pipeline.yaml refers to, and misses `${oc.create:...}`. Here the allowed packages are narrower, every
file is read, and computed names are refused; the published files have none.

Only YAML is checked here. Weights are read by `model.weight_files`, which executes nothing of them; the stock loader
would unpickle `.ckpt` files without restriction (sam3d_objects/model/io.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.errors import CheckpointError, first_line

__all__ = ["check_homes", "check_names"]

ALLOWED = ("moge.model", "sam3d_objects", "torch.nn", "torchvision.transforms")
# These look up a class by an argument, access attributes of objects, or unpickle a file given as an argument.
REFUSED = ("sam3d_objects.config", "sam3d_objects.model.io")
# These only put their arguments into a container. ss_generator.yaml uses the first.
CONTAINERS = frozenset(
    f"sam3d_objects.config.utils.make_{kind}" for kind in ("dict", "list_from_kwargs", "set", "string", "tuple")
)
# A pipeline reads further YAML files, so only one is allowed, at the top.
PIPELINES = "sam3d_objects.pipeline.inference_pipeline"
# torch.hub runs the hubconf.py of the repository named by the image embedder (embedder/dino.py, Dino).
DINO = "facebookresearch/dinov2"


def check_names(path: Path, settings: Mapping[str, Any]) -> None:
    """Check every setting of a YAML file that determines what is called. Imports none of it.

    Args:
        path: of the file, for messages.
        settings: content with unresolved interpolations.

    Raises:
        CheckpointError: a name outside the allowed packages, an interpolation, positional arguments, a second
            pipeline, or a foreign repository for torch.hub.
    """
    for key, value, depth in _entries(settings):
        if isinstance(value, str) and "${" in value:
            raise _untrusted(path, f"computes '{key}' by an interpolation", "write the value out")
        if key == "_args_":
            raise _untrusted(path, "passes arguments without names (_args_)", "give each by its name")
        if key == "_target_":
            _check_name(path, str(value), nested=depth > 0)
        elif key.endswith("_target_"):
            raise _untrusted(path, f"names a class under '{key}'", "only _target_ is allowed")
        elif key == "repo_or_dir" and not _known_hub(str(value)):
            raise _untrusted(path, f"takes the image embedder from '{value}'", f"only {DINO} is allowed")


def check_homes(path: Path, settings: Mapping[str, Any]) -> None:
    """Check the modules that define the named classes, by importing them.

    A name in an allowed package may refer to something that the package imported from elsewhere.

    Raises:
        CheckpointError: a target does not exist, or is defined outside the allowed packages.
    """
    from hydra.errors import HydraException
    from hydra.utils import get_object

    for key, value, depth in _entries(settings):
        if key != "_target_":
            continue
        try:
            found = get_object(str(value))
        except (HydraException, ImportError, ValueError) as error:
            cause = first_line(error.__cause__ or error)
            raise CheckpointError(
                f"{path} names '{value}', which cannot be imported ({cause}): `fast-sam3d doctor` says what to install"
            ) from error
        # A method of a builtin object, such as sys.path.append, has no module.
        home = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', '')}"
        _check_home(path, f"{value} ({home})", home, nested=depth > 0)


def _check_name(path: Path, name: str, nested: bool) -> None:
    if not all(part.isidentifier() and not part.startswith("_") for part in name.split(".")):
        raise _foreign(path, name)
    _check_home(path, name, name, nested)


def _check_home(path: Path, shown: str, home: str, nested: bool) -> None:
    if not _inside(home, ALLOWED) or (_inside(home, REFUSED) and home not in CONTAINERS):
        raise _foreign(path, shown)
    if nested and home.startswith(PIPELINES):
        raise _untrusted(path, f"builds a second pipeline inside the first, '{shown}'", "one is enough")


def _inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def _known_hub(place: str) -> bool:
    """Whether torch.hub may load from there: the published repository, or torch.hub's cache."""
    import torch

    if place in (DINO, f"{DINO}:main"):
        return True
    cache = Path(torch.hub.get_dir()).resolve()
    return Path(place).expanduser().resolve().parent == cache


def _entries(node: Any, depth: int = 0) -> Iterator[tuple[str, Any, int]]:
    """Every (key, value, depth) of nested mappings; items of lists have the key ""."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key), value, depth
            yield from _entries(value, depth + 1)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield "", value, depth
            yield from _entries(value, depth + 1)


def _foreign(path: Path, target: str) -> CheckpointError:
    return _untrusted(path, f"would build '{target}'", f"only what is defined in {', '.join(ALLOWED)} is allowed")


def _untrusted(path: Path, does: str, instead: str) -> CheckpointError:
    return CheckpointError(f"{path} {does}: {instead}; use no checkpoint from a source that you do not trust")
