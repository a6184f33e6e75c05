"""A schedule whose steps are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from fast_sam3d.errors import ConfigError
from fast_sam3d.ranges import Real, Settings, Whole, check, setting
from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation, Leaves
from fast_sam3d.sampling.when.base import Decide, When


@dataclass(frozen=True, slots=True)
class Path(When):
    """The steps, called nodes, at which the network runs, as measured on a model; the last step only if it is a node.

    On a solve with other steps than those that the nodes were chosen for, each node becomes the step whose time is
    nearest; see `placed`.

    Source: our own. Shortest paths over a sampler's grid are in Optimal Stepsize (arXiv 2503.21774) and MeanCache
    (arXiv 2601.19961), without guidance, whose steps cost two calls.

    Args:
        nodes: ascending, the first is 0.
        steps: of the solve that the nodes were chosen for.
        guided: its steps up to the last with guidance; 0: none.
        rescale_t: of its time grid, t = s / (s + rescale_t (1 - s)).
    """

    name: ClassVar[str] = "path"
    same_for_all_objects: ClassVar[bool] = True
    evaluates_last: ClassVar[bool] = False
    nodes: tuple[int, ...] = setting((0, 4, 8, 12, 16, 19, 22))
    steps: int = setting(25, Whole(1, 1000))
    guided: int = setting(19)
    rescale_t: float = setting(3.0, Real(1e-3, 1e3))

    def __post_init__(self) -> None:
        given: Any = self.nodes
        Settings.__post_init__(self)
        check("guided", self.guided, Whole(0, self.steps))
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise ConfigError(f"nodes is {given!r}: give the steps at which the network runs, such as [0, 4, 8]")
        for node in given:
            check("nodes", node, Whole(0, self.steps - 1))
        if given[0] != 0 or any(b <= a for a, b in pairwise(given)):
            raise ConfigError(f"nodes is {list(given)}: begin with 0 and give each step once, in ascending order")
        object.__setattr__(self, "nodes", tuple(given))

    @property
    def evaluations(self) -> int:
        """See `When`."""
        return len(self.nodes)

    def on(self, times: Sequence[float], guided: int) -> dict[int, int]:
        """The steps of a solve at which the network runs, each with the index of its node.

        Args:
            times: [steps + 1] of the solve.
            guided: its steps up to the last with guidance.
        """
        shares = [step / self.steps for step in range(self.steps + 1)]
        grid = [share / (share + self.rescale_t * (1 - share)) for share in shares]
        return placed(self.nodes, (grid, self.guided), (times, guided))

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        guided = [step for step, t in enumerate(times[:-1]) if guidance is not None and guidance.acts_at(t)]
        nodes = self.on(times, guided[-1] + 1 if guided else 0)

        def decide(step: int, history: History[Evaluation], x: Leaves) -> bool:
            if step not in nodes:
                return False
            history.number = nodes[step]  # nodes that fell together count, so that each keeps its own weights
            return True

        return decide


def placed(
    nodes: Sequence[int], ours: tuple[Sequence[float], int], theirs: tuple[Sequence[float], int]
) -> dict[int, int]:
    """Nodes chosen on one solve, on another one.

    With as many steps and guided steps they are the same. Else each node becomes the step whose time is nearest: those
    under guidance among the guided steps, the others among the rest, each part's times stretched to the other solve's.
    If either solve has no such part, all are. Nodes that fall on one step become one, the last of them.

    Args:
        ours, theirs: [steps + 1] times of the solve, and its steps up to the last with guidance.

    Returns:
        step -> index of its node, ascending.
    """
    (times, split), (wanted, guided) = ours, theirs
    if (len(times), split) == (len(wanted), guided):
        return {node: index for index, node in enumerate(nodes)}
    steps, count = len(times) - 1, len(wanted) - 1
    if not (0 < split < steps and 0 < guided < count):
        split = guided = 0
    found: dict[int, int] = {}
    for index, node in enumerate(nodes):
        first, last, a, b = (split, steps, guided, count) if node >= split else (0, split, 0, guided)
        share = (times[node] - times[first]) / (times[last] - times[first])
        t = wanted[a] + share * (wanted[b] - wanted[a])
        found[min(range(a, b), key=lambda step: abs(wanted[step] - t))] = index
    return found
