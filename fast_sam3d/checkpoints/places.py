"""Where the files of a checkpoint lie: in its folder, under plain names."""

from __future__ import annotations

from pathlib import Path

from fast_sam3d.errors import CheckpointError

__all__ = ["check_place", "place_in"]

_ADVICE = "use no checkpoint from a source that you do not trust"


def place_in(folder: Path, name: object, named_by: Path) -> Path:
    """The path of a file that a checkpoint names.

    Args:
        folder: of the checkpoint.
        name: relative to it.
        named_by: the file that names it, for messages.

    Raises:
        CheckpointError: not a text, a name with control characters, or one that leads out of the folder.
    """
    if not isinstance(name, str) or not name.isprintable():
        raise CheckpointError(f"{named_by} names the file {name!a}: give a name of printable characters; {_ADVICE}")
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise CheckpointError(f"{named_by} names {name}, outside of its folder: give a relative path; {_ADVICE}")
    return folder / relative


def check_place(folder: Path, path: Path) -> None:
    """Refuse a file of a checkpoint that is a link out of the folder; the files that the hub's cache links to are fine.

    Args:
        folder: of the checkpoint.
        path: of a file in it.

    Raises:
        CheckpointError: it leads elsewhere.
    """
    try:
        root, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError):  # links in a circle, which reading names
        return
    above = [parent.parent for parent in (root, *root.parents) if parent.name == "snapshots"]
    allowed = [root, *(repository / "blobs" for repository in above)]
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{path} is a link to {str(target)!a}, outside of the checkpoint's folder: copy the file there, or give "
            "the folder in which all files are"
        )
