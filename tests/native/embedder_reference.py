"""The published embedders written out slowly in float64, from formulas; the oracle of the tests."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def norm(x: Tensor, eps: float, weights: Weights | None = None, name: str = "") -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    x = centred / ((centred**2).mean(-1, keepdim=True) + eps).sqrt()
    return x if weights is None else x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    x = torch.einsum("...i,oi->...o", x, weights[f"{name}.weight"])
    return x + weights[f"{name}.bias"] if f"{name}.bias" in weights else x


def below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Those of a part, in float64."""
    return {name[len(prefix) :]: value.double() for name, value in weights.items() if name.startswith(prefix)}


def attention(x: Tensor, weights: Weights, heads: int) -> Tensor:
    """[N, C] -> [N, C], head by head."""
    width, dim, found = x.shape[-1], x.shape[-1] // heads, []
    queries, keys, values = linear(x, weights, "qkv").split(width, dim=-1)
    for head in range(heads):
        q, k, v = (part[:, head * dim : (head + 1) * dim] for part in (queries, keys, values))
        found.append(torch.softmax(q @ k.T / math.sqrt(dim), dim=-1) @ v)
    return linear(torch.cat(found, dim=-1), weights, "proj")


def block(x: Tensor, weights: Weights, heads: int, eps: float = 1e-6) -> Tensor:
    gains = [weights.get(f"ls{number}.gamma", torch.ones(())) for number in (1, 2)]
    x = x + gains[0] * attention(norm(x, eps, weights, "norm1"), below(weights, "attn."), heads)
    hidden = linear(norm(x, eps, weights, "norm2"), weights, "mlp.fc1")
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return x + gains[1] * linear(hidden, weights, "mlp.fc2")


def cubic(x: float, a: float) -> float:
    """Keys' kernel."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resampling(count: int, target: int, step: float, a: float, clamp: bool) -> Tensor:
    """[target, count]: at the border the outermost value is repeated (clamp), or what is outside is left out."""
    found = torch.zeros(target, count, dtype=torch.float64)
    for row in range(target):
        place = (row + 0.5) * step - 0.5
        for column in range(math.floor(place) - 2, math.floor(place) + 4):
            inside = min(max(column, 0), count - 1)
            if clamp or inside == column:
                found[row, inside] += cubic(place - column, a)
    return found / found.sum(1, keepdim=True)


def positions(code: Tensor, rows: int, columns: int, by_scale: bool) -> Tensor:
    """[1 + grid², C] -> [1 + rows * columns, C]."""
    grid = math.isqrt(len(code) - 1)
    table = code[1:].reshape(grid, grid, -1)

    def along(target: int) -> Tensor:
        if by_scale:
            return resampling(grid, target, grid / (target + 0.1), -0.75, clamp=True)
        return resampling(grid, target, grid / target, -0.5, clamp=False)

    table = torch.einsum("ri,cj,ijk->rck", along(rows), along(columns), table)
    return torch.cat([code[:1], table.flatten(0, 1)])


def vision_transformer(image: Tensor, weights: Weights, heads: int, patch: int, by_scale: bool = False) -> list[Tensor]:
    """[3, H, W] -> [tokens, C] after every block."""
    weights, image = below(weights, ""), image.double()
    rows, columns = (size // patch for size in image.shape[1:])
    kernel = weights["patch_embed.proj.weight"].flatten(1)
    patches = [
        kernel @ image[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].reshape(-1)
        for y in range(rows)
        for x in range(columns)
    ]
    code = weights["pos_embed"][0]
    if (rows * columns, rows) != (len(code) - 1, columns):
        code = positions(code, rows, columns, by_scale)
    tokens = torch.stack([weights["cls_token"][0, 0], *(p + weights["patch_embed.proj.bias"] for p in patches)]) + code
    if "register_tokens" in weights:
        tokens = torch.cat([tokens[:1], weights["register_tokens"][0], tokens[1:]])
    found: list[Tensor] = []
    while any(name.startswith(f"blocks.{len(found)}.") for name in weights):
        tokens = block(tokens, below(weights, f"blocks.{len(found)}."), heads)
        found.append(tokens)
    return found


def picture_tokens(image: Tensor, weights: Weights, heads: int, patch: int, registers: int, prenorm: bool) -> Tensor:
    """[1 or 3, S, S] in 0..1 -> [tokens, C]."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = torch.stack([image[min(c, len(image) - 1)].double() - mean[c] for c in range(3)]) / std[:, None, None]
    tokens = vision_transformer(image, weights, heads, patch)[-1]
    if prenorm:
        return norm(tokens, 1e-5)
    tokens = norm(tokens, 1e-6, below(weights, ""), "norm")
    return torch.stack([token for number, token in enumerate(tokens) if not 1 <= number <= registers])


def point_tokens(points: Tensor, weights: Weights, size: int, patch: int, heads: int = 16) -> Tensor:
    """[3, H, W] -> [windows, C]."""
    weights, found = below(weights, ""), []
    height, width = points.shape[1:]
    cells = size // patch
    for row in range(cells):
        for column in range(cells):
            tokens = [weights["cls_token"][0, 0]]
            for y in range(row * patch, (row + 1) * patch):
                for x in range(column * patch, (column + 1) * patch):
                    point = points[:, y * height // size, x * width // size].double()
                    known = bool(point.isfinite().all())
                    tokens.append(linear(point, weights, "point_proj") if known else weights["invalid_xyz_token"])
            window = torch.stack(tokens) + weights["pos_embed_window"][0]
            window = block(window, below(weights, "blocks.0."), heads)
            found.append(window[0] + weights["pos_embed"][0, :, row, column])
    return torch.stack(found)


def projected(tokens: Tensor, weights: Weights, number: int) -> Tensor:
    own = below(weights, f"projection_nets.{number}.")
    x = norm(tokens, 1e-5, own, "0")
    gate = linear(x, own, "1.w1")
    return linear(gate / (1 + torch.exp(-gate)) * linear(x, own, "1.w3"), own, "1.w2")
