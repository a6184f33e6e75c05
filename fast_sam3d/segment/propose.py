"""Several objects that a mark could mean, and the choice among them by the contrast along their borders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from fast_sam3d.segment.cut import barriers, grab, split
from fast_sam3d.segment.graph import Graph

__all__ = ["add", "boxed", "first", "remove", "score"]

LEVELS = (3.0, 5.0, 8.0, 12.0, 18.0, 27.0, 40.0)
"""CIE Lab contrasts that may separate an object from what surrounds it."""
CLEARLY = 4.0
"""By how much the score of a start must exceed that of the cut from it."""

Bools = NDArray[np.bool_]


def first(graph: Graph, inside: Bools, outside: Bools) -> Bools:
    """[N] the best object around marked superpixels.

    Args:
        inside, outside: [N] marked as object and as background; the picture's border is background, too, as far as it
            is not marked.
    """
    background = outside | (graph.border > 0) & ~inside
    if not background.any():
        background = ~inside
    return _best(graph, _wholes(graph, inside, outside, background), inside)


def boxed(graph: Graph, within: Bools, inside: Bools, outside: Bools) -> Bools:
    """[N] the best object that fills a box.

    Args:
        within: [N] superpixels in the box.
        inside, outside: [N] further marks.
    """
    never = (outside | ~within) & ~inside
    start = within & ~never

    def wholes() -> Iterator[Bools]:
        yield grab(graph, start, inside, never)
        reach = barriers(graph, never)
        for level in LEVELS:
            apart = (reach > level) & ~never | inside
            if apart.any():
                yield apart
                yield grab(graph, apart, inside, never)

    return _best(graph, (_large_parts(graph, whole, inside) for whole in wholes()), inside, within)


def add(graph: Graph, now: Bools, mark: Bools, inside: Bools, outside: Bools) -> Bools:
    """[N] an object `now` with the part around another mark [N], which contains no background mark."""
    free = ~now & ~outside
    background = (outside | (graph.border > 0)) & ~inside & ~now
    options = [now | part for part in _levels(graph, mark, free)]
    if background.any():
        options += [now | whole for whole in _wholes(graph, mark, outside, background)]
        options.append(grab(graph, now | mark, now & ~outside | inside, background))
    return _best(graph, options, inside)


def remove(graph: Graph, now: Bools, mark: Bools, inside: Bools, outside: Bools) -> Bools:
    """[N] an object `now` without the part around a background mark [N], which contains no object mark."""
    options = [now & ~part for part in _levels(graph, mark, now) if not (part & inside).any()]
    if inside.any():
        options.append(now & split(graph, inside, outside | ~now))
        options.append(now & split(graph, inside, mark))
        options.append(grab(graph, now & ~mark, inside, outside | ~now))
        options = [_connected(graph, option, inside) for option in options]
    options.append(now & ~mark)
    return _best(graph, options, inside)


def score(graph: Graph, chosen: Bools, within: Bools | None = None) -> float:
    """How well contrast surrounds a set: the mean along its border, and its weakest tenth; higher is better."""
    across = chosen[graph.edges[:, 0]] != chosen[graph.edges[:, 1]]
    length, contrast = graph.length[across], graph.contrast[across]
    if not len(length) or not chosen.any():
        return -np.inf
    order = np.argsort(contrast)
    share = np.cumsum(length[order]) / length.sum()
    weak = contrast[order][np.searchsorted(share, 0.1)]
    mean = float((np.minimum(contrast, 20) * length).sum() / length.sum())
    edge = graph.border[chosen].sum() / graph.border.sum()
    found = mean + min(float(weak), 20.0) - 10.0 * float(edge)
    return found if within is None else found + 40.0 * _filled(graph, chosen, within)


def _filled(graph: Graph, chosen: Bools, within: Bools) -> float:
    """Overlap of the bounding boxes of two sets."""
    (a, b), (c, d) = ((graph.centre[part].min(0), graph.centre[part].max(0)) for part in (chosen, within))
    common = np.maximum(np.minimum(b, d) - np.maximum(a, c), 0).prod()
    return float(common / max((b - a).prod() + (d - c).prod() - common, 1e-6))


def _wholes(graph: Graph, inside: Bools, outside: Bools, background: Bools) -> Iterator[Bools]:
    """Several starts and the cuts from them, as far as they hang together with the marks: everything nearer to the
    marks than to the background; and, for each level, what the background cannot reach without crossing as much
    contrast. A start is preferred to its cut only where far more contrast surrounds it, as in a line drawing."""

    def better(start: Bools) -> Bools:
        found = _connected(graph, grab(graph, start, inside, background), inside)
        return start if score(graph, start) > score(graph, found) + CLEARLY else found

    yield better(split(graph, inside, background))
    reach = barriers(graph, background)
    last = None
    for level in LEVELS:
        whole = _connected(graph, (reach > level) & ~outside | inside, inside)
        if whole.all() or (last is not None and (whole == last).all()):
            continue
        last = whole
        yield better(whole)


def _levels(graph: Graph, mark: Bools, free: Bools) -> Iterator[Bools]:
    """For each level, what a mark reaches inside of a free set without crossing as much contrast."""
    mark = mark & free
    low = graph.contrast
    for level in LEVELS:
        yield _connected(graph, free, mark, low <= level)
    yield _connected(graph, free, mark)


def _best(graph: Graph, options: Iterable[Bools], inside: Bools, within: Bools | None = None) -> Bools:
    return max(options, key=lambda chosen: score(graph, chosen | inside, within)) | inside


def _connected(graph: Graph, keep: Bools, seeds: Bools, open_: Bools | None = None) -> Bools:
    """[N] the parts of `keep` that hang together with a seed, over open edges [E] if given."""
    return keep & np.isin(part := _parts(graph, keep, open_), np.unique(part[seeds]))


def _large_parts(graph: Graph, keep: Bools, inside: Bools) -> Bools:
    """[N] the parts of `keep` with a mark or at least a tenth of the largest one's area."""
    part = _parts(graph, keep)
    area = np.bincount(part, graph.area * keep)
    large = area >= 0.1 * area.max()
    large[part[inside]] = True
    return keep & large[part]


def _parts(graph: Graph, keep: Bools, open_: Bools | None = None) -> NDArray[np.integer]:
    first, second = graph.edges.T
    linked = keep[first] & keep[second]
    if open_ is not None:
        linked &= open_
    count = len(keep)
    links = sparse.csr_array((np.ones(int(linked.sum())), (first[linked], second[linked])), shape=(count, count))
    part: NDArray[np.integer] = csgraph.connected_components(links, directed=False)[1]
    return part
