"""A schedule whose steps are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from fast_sam3d.errors import ConfigError
from fast_sam3d.ranges import Settings, Whole, check, setting
from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation, Leaves
from fast_sam3d.sampling.when.base import Decide, When


@dataclass(frozen=True, slots=True)
class Path(When):
    """The steps, called nodes, at which the network runs, as measured on a model; the last step only if it is a node.

    `steps` and `guided` describe the solve that the nodes were chosen for. On any other, the nodes before the end of
    guidance are stretched over its guided steps, and the others over the rest; if either solve has no such part, all
    nodes are stretched over all steps. Nodes that fall on one step become one, the last of them.

    Source: our own. Shortest paths over a sampler's grid are in Optimal Stepsize (arXiv 2503.21774) and MeanCache
    (arXiv 2601.19961), without guidance, whose steps cost two calls.

    Args:
        nodes: ascending, the first is 0.
        steps: of the solve that the nodes were chosen for.
        guided: its steps up to the last with guidance; 0: none.
    """

    name: ClassVar[str] = "path"
    same_for_all_objects: ClassVar[bool] = True
    evaluates_last: ClassVar[bool] = False
    nodes: tuple[int, ...] = setting((0, 4, 8, 12, 16, 19, 22))
    steps: int = setting(25, Whole(1))
    guided: int = setting(19)

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

    def on(self, steps: int, guided: int) -> dict[int, int]:
        """The steps of a solve at which the network runs, each with the index of its node.

        Args:
            steps: of the solve.
            guided: its steps up to the last with guidance.
        """
        if 0 < guided < steps and 0 < self.guided < self.steps:
            ours, theirs = (0, self.guided, self.steps), (0, guided, steps)
        else:
            ours, theirs = (0, self.steps, self.steps), (0, steps, steps)
        found: dict[int, int] = {}
        for index, node in enumerate(self.nodes):
            part = int(node >= ours[1])
            length, wanted = ours[part + 1] - ours[part], theirs[part + 1] - theirs[part]
            offset = (2 * (node - ours[part]) * wanted + length) // (2 * length)  # rounded
            found[theirs[part] + min(offset, wanted - 1)] = index
        return found

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        guided = [step for step, t in enumerate(times[:-1]) if guidance is not None and guidance.acts_at(t)]
        nodes = self.on(len(times) - 1, guided[-1] + 1 if guided else 0)

        def decide(step: int, history: History[Evaluation], x: Leaves) -> bool:
            if step not in nodes:
                return False
            history.number = nodes[step]  # nodes that fell together count, so that each keeps its own weights
            return True

        return decide
