"""JSON files that seal a folder of results: they hold the SHA-256 of every file, and one of their own content.

What is found in a folder later is used again only if nothing in it has changed since it was written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.documents import read_json
from fast_sam3d.errors import OutputError
from fast_sam3d.outputs.digests import content_digest, text_digest
from fast_sam3d.outputs.files import json_types, save_json

__all__ = ["damage", "is_sealed", "read_sealed", "save_sealed"]

FILES, DIGESTS, SEAL = "files", "sha256", "seal"


def save_sealed(path: Path, content: Mapping[str, Any], names: Iterable[str] = ()) -> None:
    """Write JSON with the digests of files beside it ("sha256", by name) and of its own content ("seal").

    Args:
        content: see `fast_sam3d.outputs.files.save_json`; its "files" names what `damage` checks, perhaps with sizes.
        names: files whose digests are kept.
    """
    plain = json_types({**content, DIGESTS: {name: content_digest(path.parent / name) for name in names}})
    save_json(path, {**plain, SEAL: _seal(plain)})


def read_sealed(path: Path) -> dict[str, Any]:
    """The content of a sealed file, which may be damaged.

    Raises:
        OutputError: it cannot be read, or is no JSON object.
    """
    content = read_json(path, error=OutputError)
    if not isinstance(content, dict):
        raise OutputError(f"{path} is no JSON object: delete it")
    return content


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Whether a content is as it was sealed; earlier versions wrote neither digests nor seal."""
    if DIGESTS not in content and SEAL not in content:
        return True
    return content.get(SEAL) == _seal({name: value for name, value in content.items() if name != SEAL})


def damage(path: Path, content: Mapping[str, Any]) -> str | None:
    """What has changed since a file was sealed, in words; None: nothing.

    Args:
        content: of the file. Of its "files" the sizes are compared, where it has them, then the digests, where it has
            them; a JSON file without either is compared with its own seal.
    """
    if not is_sealed(content):
        return f"{path.name} has been changed"
    names, digests = content[FILES], content.get(DIGESTS, {})
    for name in names:
        size, file = names[name] if isinstance(names, Mapping) else None, path.parent / name
        try:
            if not file.is_file():
                return f"{name} is missing"
            same = size in (None, file.stat().st_size)
            if same and name in digests:
                same = content_digest(file) == digests[name]
            elif same and file.suffix == ".json":
                same = is_sealed(read_sealed(file))
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        except ValueError:
            same = False
        if not same:
            return f"{name} has been changed"
    return None


def _seal(plain: Mapping[str, Any]) -> str:
    return text_digest(json.dumps(plain, sort_keys=True))
