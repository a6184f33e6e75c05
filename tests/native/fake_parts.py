"""Parts with small networks, which count how often their weights are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

HALF_TYPES = (torch.float16, torch.bfloat16)


@dataclass(eq=False)
class FakePart:
    """A `Part` whose "file" is a dictionary of float32 tensors.

    Args:
        before: called before each tensor is read, for errors in the middle of a load.
    """

    name: str
    module: nn.Module
    file: dict[str, Tensor] = field(default_factory=dict)
    reads: list[torch.dtype | None] = field(default_factory=list)
    before: Callable[[str], None] = lambda key: None

    def size(self, half: torch.dtype | None) -> int:
        return sum(tensor.numel() * (4 if half is None else 2) for tensor in self.file.values())

    def load(self, device: torch.device, half: torch.dtype | None) -> None:
        self.reads.append(half)
        for key, tensor in self.file.items():
            self.before(key)
            self.module.load_state_dict({key: tensor.to(device, half or tensor.dtype)}, strict=False, assign=True)

    def release(self) -> None:
        self.module.to("meta")

    @property
    def on_meta(self) -> bool:
        """Whether no weight takes memory."""
        return all(parameter.is_meta for parameter in self.module.parameters())


def fake_parts(*names: str, width: int = 8) -> dict[str, FakePart]:
    """Parts with two linear layers each."""
    torch.manual_seed(0)
    found = {}
    for name in names:
        with torch.device("meta"):
            module = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width)).eval().requires_grad_(False)
        file = {key: torch.randn(tensor.shape) for key, tensor in module.state_dict().items()}
        found[name] = FakePart(name, module, file)
    return found
