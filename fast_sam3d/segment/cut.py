"""Which superpixels are the object: the minimum cut between marked object and marked background.

The energy is that of GrabCut (Rother et al. 2004), on superpixels: colour models of object and background, here
histograms over the picture's main colours that are taken again after each cut, and a price for a border that grows with
its length and falls with the contrast along it. The first split gives every superpixel to the mark that reaches it over
the lower barrier, the watershed of a graph (Cousty et al. 2009).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from fast_sam3d.segment.graph import Graph

__all__ = ["barriers", "cut", "evidence", "grab", "split"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]

ROUNDS = 4
SMOOTH = 25.0
"""Price of a pixel of border without contrast, in log likelihood of pixels."""
RARE = 20.0
"""A colour that a side lacks counts as if it had this fraction of an even share."""
_WHOLE = 1 << 28
"""Capacity of what must not be cut; scipy's flow takes 32-bit integers."""


def barriers(graph: Graph, seeds: Bools) -> Floats:
    """[N] the highest contrast that the best path from a seed has to cross, the minimax distance."""
    tree = csgraph.minimum_spanning_tree(graph.matrix(graph.contrast + 1e-3)).tocsr()
    count = len(graph.area)
    # On the tree the path is unique: visit it from a source connected to all seeds.
    low = tree.tocoo()
    picked = np.flatnonzero(seeds)
    rows = np.concatenate([low.row, np.full(len(picked), count)])
    columns = np.concatenate([low.col, picked])
    weights = np.concatenate([low.data, np.full(len(picked), 1e-6)])
    joined = sparse.csr_array((weights, (rows, columns)), shape=(count + 1, count + 1))
    joined = csgraph.minimum_spanning_tree(joined + joined.T).tocsr()
    order, before = csgraph.breadth_first_order(joined, count, directed=False)
    both = (joined + joined.T).tocsr()
    found = np.full(count + 1, np.inf)
    found[count] = 0.0
    steps = np.asarray(both[before[order[1:]], order[1:]]).ravel()
    for node, parent, weight in zip(order[1:].tolist(), before[order[1:]].tolist(), steps.tolist(), strict=True):
        found[node] = max(found[parent], weight)
    return found[:count]


def split(graph: Graph, inside: Bools, outside: Bools) -> Bools:
    """[N] whether the object's seeds reach a superpixel over a lower barrier than the background's."""
    near = _distances(graph, inside)
    far = _distances(graph, outside)
    ours, theirs = barriers(graph, inside), barriers(graph, outside)
    return (ours < theirs) | ((ours == theirs) & (near < far))


def _distances(graph: Graph, seeds: Bools) -> Floats:
    step = np.linalg.norm(graph.centre[graph.edges[:, 0]] - graph.centre[graph.edges[:, 1]], axis=-1)
    weights = graph.contrast + 0.05 * step
    return csgraph.dijkstra(graph.matrix(weights), indices=np.flatnonzero(seeds), min_only=True)


def grab(graph: Graph, first: Bools, inside: Bools, outside: Bools, rounds: int = ROUNDS) -> Bools:
    """[N] the object, from a first split, by colour models and cuts in turn; the seeds keep their side."""
    object_ = first.copy()
    for _ in range(rounds):
        if not object_.any() or object_.all():
            break
        found = cut(graph, evidence(graph, object_) * graph.area, inside, outside)
        if (found == object_).all():
            break
        object_ = found
    return object_


def cut(graph: Graph, gain: Floats, inside: Bools, outside: Bools, smooth: float = SMOOTH) -> Bools:
    """[N] the set with the largest sum of `gain` [N] minus the price of its border, by maximum flow."""
    spread = max(float(np.average(graph.contrast**2, weights=graph.length)), 1e-6)
    price = smooth * graph.length * (np.exp(-(graph.contrast**2) / (2 * spread)) + 0.02)
    count = len(graph.area)
    source, sink = count, count + 1
    to_object, to_background = np.maximum(gain, 0), np.maximum(-gain, 0)
    scale = 1000.0 / max(float(price.max()), 1.0)
    first, second = graph.edges.T
    nodes = np.arange(count)
    ends = np.concatenate
    rows = ends([first, second, np.full(count, source), nodes])
    columns = ends([second, first, nodes, np.full(count, sink)])
    values = np.minimum(ends([price, price, to_object, to_background]) * scale, 1e6).astype(np.int32)
    values[2 * len(first) : 2 * len(first) + count][inside] = _WHOLE
    values[2 * len(first) : 2 * len(first) + count][outside] = 0
    values[2 * len(first) + count :][outside] = _WHOLE
    values[2 * len(first) + count :][inside] = 0
    capacity = sparse.csr_array((values, (rows, columns)), shape=(count + 2, count + 2), dtype=np.int32)
    flow = csgraph.maximum_flow(capacity, source, sink).flow
    rest = capacity - flow
    rest.data = np.maximum(rest.data, 0)
    rest.eliminate_zeros()
    reached = csgraph.breadth_first_order(rest, source, return_predecessors=False)
    found = np.zeros(count + 2, bool)
    found[reached] = True
    return found[:count]


def evidence(graph: Graph, chosen: Bools) -> Floats:
    """[N] log of how much more frequent each superpixel's colour is in the chosen set than outside of it."""
    count = len(graph.alike)
    shares = []
    for side in (chosen, ~chosen):
        weight = np.bincount(graph.tone[side], graph.area[side], count) @ graph.alike
        shares.append(weight / max(float(weight.sum()), 1e-6) + 1 / (RARE * count))
    ours, theirs = shares
    return np.log(ours / theirs)[graph.tone]
