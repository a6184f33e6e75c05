"""Several masks that a mark could mean, and the choice among them by the contrast along their borders."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from fast_sam3d.segment.cut import barriers, grab, split
from fast_sam3d.segment.graph import Graph

__all__ = ["propose", "score"]

LEVELS = (3.0, 5.0, 8.0, 12.0, 18.0, 27.0)
"""CIE Lab contrasts that may separate an object from what surrounds it."""

Bools = NDArray[np.bool_]


def propose(graph: Graph, inside: Bools, outside: Bools) -> Bools:
    """[N] the best of several objects around marked superpixels.

    Each is a first split and the cut from it: everything nearer to the marks than to the background; and, for each
    level, what the background cannot reach without crossing as much contrast, as far as it hangs together.

    Args:
        inside, outside: [N] marked as object and as background; without any background the picture's border is it.
    """
    background = outside if outside.any() else graph.border & ~inside
    if not background.any():
        background = ~inside
    found = list(_candidates(graph, inside, outside, background))
    return max(found, key=lambda chosen: score(graph, chosen))


def _candidates(graph: Graph, inside: Bools, outside: Bools, background: Bools) -> Iterator[Bools]:
    first = split(graph, inside, background)
    yield first
    yield grab(graph, first, inside, background)
    reach = barriers(graph, background)
    last = None
    for level in LEVELS:
        apart = (reach > level) & ~outside | inside
        whole = _connected(graph, apart, inside)
        if whole.all() or (last is not None and (whole == last).all()):
            continue
        last = whole
        yield whole
        yield grab(graph, whole, inside, background)


def score(graph: Graph, chosen: Bools) -> float:
    """How well contrast surrounds a set: the mean along its border, and its weakest tenth; higher is better."""
    across = chosen[graph.edges[:, 0]] != chosen[graph.edges[:, 1]]
    length, contrast = graph.length[across], graph.contrast[across]
    if not len(length):
        return -np.inf
    order = np.argsort(contrast)
    share = np.cumsum(length[order]) / length.sum()
    weak = contrast[order][np.searchsorted(share, 0.1)]
    mean = float((np.minimum(contrast, 20) * length).sum() / length.sum())
    edge = graph.border[chosen].sum() / max(int(graph.border.sum()), 1)
    return mean + min(float(weak), 20.0) - 10.0 * float(edge)


def _connected(graph: Graph, keep: Bools, seeds: Bools) -> Bools:
    """[N] the parts of `keep` that hang together with a seed."""
    first, second = graph.edges.T
    linked = keep[first] & keep[second]
    count = len(keep)
    links = sparse.csr_array((np.ones(int(linked.sum())), (first[linked], second[linked])), shape=(count, count))
    _, part = csgraph.connected_components(links, directed=False)
    return keep & np.isin(part, np.unique(part[seeds]))
