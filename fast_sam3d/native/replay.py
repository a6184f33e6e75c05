"""Results of the stages of one object, so that its run can be stopped between two stages and repeated from there.

A run that is repeated with the same `Replay` takes the results that are known, and puts torch's random generators where
they were after each, so that it ends with the same result as an uninterrupted run. What is cheap, such as preprocessing
and checks, runs again. So after out of memory only the stage that failed is repeated; and with `until`, many objects
can go through one stage after another, while its weights are on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = ["ORDER", "Replay", "Suspended"]

ORDER: Final = (
    "depth_model", "ss_condition_embedder", "ss_generator", "ss_decoder", "slat_condition_embedder", "slat_generator",
)  # fmt: skip
"""Parts whose results are kept, in the order of a run. Those of the decoders, which are large, are not."""


class Suspended(BaseException):
    """The run of an object has come to a part that is not its turn yet. No error, so that nothing catches it."""

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self.part = part


@dataclass(eq=False)
class Replay:
    """The results of one object's stages.

    Args:
        device: that results are used on; they are kept in main memory.
        until: parts that may compute; others raise `Suspended`. None: all.
    """

    device: torch.device
    until: Collection[str] | None = None
    _known: dict[str, tuple[Any, list[Tensor]]] = field(default_factory=dict)

    def __contains__(self, part: str) -> bool:
        return part in self._known

    def reach(self, part: str) -> None:
        """Raises Suspended where it is not a part's turn."""
        if self.until is not None and part not in self.until:
            raise Suspended(part)

    def result(self, part: str, compute: Callable[[], Any]) -> Any:
        """The result of a part, computed unless it is known.

        Raises:
            Suspended: it is neither known nor its turn.
        """
        if part in self._known:
            value, states = self._known[part]
            _set_random(states, self.device)
            return tree_map(lambda leaf: _copied(leaf, self.device), value)
        self.reach(part)
        value = compute()
        if part in ORDER:
            kept = tree_map(lambda leaf: _copied(leaf, torch.device("cpu")), value)
            self._known[part] = (kept, _random(self.device))
        return value


def _copied(leaf: Any, device: torch.device) -> Any:
    return leaf.detach().to(device, copy=True) if isinstance(leaf, Tensor) else leaf


def _random(device: torch.device) -> list[Tensor]:
    """States of the random generators of the host and of a device."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def _set_random(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])
