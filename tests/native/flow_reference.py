"""The published sampling networks written out slowly, in float64, on tensors by their names and layouts in files.

An independent reading of the formulas: nothing of the package is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

LEAVES = {"6drotation_normalized": 6, "scale": 3, "shape": 8, "translation": 3, "translation_scale": 1}
LAYOUT = ("6drotation_normalized", "translation", "scale", "translation_scale")
STREAMS = ("shape", "6drotation_normalized")

Weights = Mapping[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].double().T + w[f"{name}.bias"].double()


def norm(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def affine(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return norm(x, eps) * w[f"{name}.weight"].double() + w[f"{name}.bias"].double()


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def time_features(w: Weights, name: str, t: float) -> Tensor:
    """Cosines first, then sines."""
    angles = [t * 10000 ** (-i / 128) for i in range(128)]
    features = torch.tensor([[*map(math.cos, angles), *map(math.sin, angles)]], dtype=torch.float64)
    return linear(w, f"{name}.mlp.2", silu(linear(w, f"{name}.mlp.0", features)))


def place_code(place: Any, width: int) -> list[float]:
    """Of each axis the sines first, then the cosines; zeros at the end."""
    count = width // 6
    code = []
    for value in place:
        angles = [float(value) * 10000 ** (-i / count) for i in range(count)]
        code += [*map(math.sin, angles), *map(math.cos, angles)]
    return code + [0.0] * (width - len(code))


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[N, H, D] each -> [N, H D]."""
    heads = [torch.softmax(q[:, h] @ k[:, h].T / math.sqrt(q.shape[-1]), dim=-1) @ v[:, h] for h in range(q.shape[1])]
    return torch.cat(heads, dim=-1)


def queries_keys_values(w: Weights, name: str, stream: str, x: Tensor, heads: int) -> list[Tensor]:
    q, k, v = linear(w, f"{name}.to_qkv{stream}", x).view(len(x), 3, heads, -1).unbind(1)
    root = math.sqrt(q.shape[-1])
    return [
        unit(q) * w[f"{name}.q_rms_norm{stream}.gamma"].double() * root,
        unit(k) * w[f"{name}.k_rms_norm{stream}.gamma"].double() * root,
        v,
    ]


def cross(w: Weights, name: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
    q = linear(w, f"{name}.to_q", x).view(len(x), heads, -1)
    k, v = linear(w, f"{name}.to_kv", context).view(len(context), 2, heads, -1).unbind(1)
    return linear(w, f"{name}.to_out", attend(q, k, v))


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.mlp.2", gelu(linear(w, f"{name}.mlp.0", x)))


def structure_velocity(
    w: Weights, x: Mapping[str, Tensor], t: float, d: float, context: Tensor, heads: int, blocks: int
) -> dict[str, Tensor]:
    """x: leaves [N, C], context: [L, C]."""
    context, emb = context.double(), time_features(w, "t_embedder", t) + time_features(w, "d_embedder", d)
    tokens = {
        leaf: linear(w, f"latent_mapping.{leaf}.input_layer", x[leaf].double())
        + w[f"latent_mapping.{leaf}.pos_emb"].double()
        for leaf in LEAVES
    }
    h = {"shape": tokens["shape"], "6drotation_normalized": torch.cat([tokens[leaf] for leaf in LAYOUT])}
    for number in range(blocks):
        name = f"blocks.{number}"
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(w, f"{name}.adaLN_modulation.1", silu(emb)).chunk(6, -1)
        q, k, v = {}, {}, {}
        for s in STREAMS:
            inner = norm(h[s], 1e-6) * (1 + scale1) + shift1
            q[s], k[s], v[s] = queries_keys_values(w, f"{name}.self_attn", f".{s}", inner, heads)
        both = {part: torch.cat([value[s] for s in STREAMS]) for part, value in (("k", k), ("v", v))}
        for s in STREAMS:
            keys, values = (k[s], v[s]) if s == "shape" else (both["k"], both["v"])
            h[s] = h[s] + gate1 * linear(w, f"{name}.self_attn.to_out.{s}", attend(q[s], keys, values))
            normed = affine(w, f"{name}.norm2.{s}", h[s], 1e-6)
            h[s] = h[s] + cross(w, f"{name}.cross_attn.{s}", normed, context, heads)
            h[s] = h[s] + gate2 * mlp(w, f"{name}.mlp.{s}", norm(h[s], 1e-6) * (1 + scale2) + shift2)
    split = dict(zip(LAYOUT, h["6drotation_normalized"].split(1), strict=True)) | {"shape": h["shape"]}
    return {leaf: linear(w, f"latent_mapping.{leaf}.out_layer", norm(split[leaf], 1e-5)) for leaf in LEAVES}


def convolution(w: Weights, name: str, x: Tensor, places: list[tuple[int, ...]]) -> Tensor:
    """The weight is [out, k, k, k, in], tap by tap; neighbours that are not there are zero."""
    weight, rows = w[f"{name}.conv.weight"].double(), {place: row for row, place in enumerate(places)}
    out = w[f"{name}.conv.bias"].double().repeat(len(x), 1)
    for row, place in enumerate(places):
        for tap in product(range(3), repeat=3):
            other = rows.get(tuple(p + step - 1 for p, step in zip(place, tap, strict=True)))
            if other is not None:
                out[row] += weight[:, tap[0], tap[1], tap[2]] @ x[other]
    return out


def res_block(w: Weights, name: str, x: Tensor, places: list[tuple[int, ...]], emb: Tensor) -> Tensor:
    scale, shift = linear(w, f"{name}.emb_layers.1", silu(emb)).chunk(2, -1)
    h = convolution(w, f"{name}.conv1", silu(affine(w, f"{name}.norm1", x, 1e-6)), places)
    h = convolution(w, f"{name}.conv2", silu(norm(h, 1e-6) * (1 + scale) + shift), places)
    return h + (linear(w, f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in w else x)


def latent_velocity(
    w: Weights, x: Tensor, t: float, context: Tensor, coords: Tensor, heads: int, blocks: int
) -> Tensor:
    """x: [N, C], context: [L, C], coords: [N, 3]."""
    context, emb = context.double(), time_features(w, "t_embedder", t)
    places: list[tuple[int, ...]] = [tuple(p) for p in coords.tolist()]
    h = linear(w, "input_layer", x.double())
    first = h = res_block(w, "input_blocks.0", h, places, emb)
    # Packed: the sum over the children, divided by their number and one.
    parents = sorted({tuple(v // 2 for v in place) for place in places})
    parent_of = [parents.index(tuple(v // 2 for v in place)) for place in places]
    packed = torch.stack(
        [
            h[[i for i, p in enumerate(parent_of) if p == n]].sum(0) / (parent_of.count(n) + 1)
            for n in range(len(parents))
        ]
    )
    second = h = res_block(w, "input_blocks.1", packed, parents, emb)
    h = h + torch.tensor([place_code(place, h.shape[1]) for place in parents], dtype=torch.float64)
    for number in range(blocks):
        name = f"blocks.{number}"
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(w, f"{name}.adaLN_modulation.1", silu(emb)).chunk(6, -1)
        inner = norm(h, 1e-6) * (1 + scale1) + shift1
        q, k, v = queries_keys_values(w, f"{name}.self_attn", "", inner, heads)
        h = h + gate1 * linear(w, f"{name}.self_attn.to_out", attend(q, k, v))
        h = h + cross(w, f"{name}.cross_attn", affine(w, f"{name}.norm2", h, 1e-6), context, heads)
        h = h + gate2 * mlp(w, f"{name}.mlp", norm(h, 1e-6) * (1 + scale2) + shift2)
    h = torch.cat([h, second], dim=1)[parent_of]
    h = res_block(w, "out_blocks.0", h, places, emb)
    h = res_block(w, "out_blocks.1", torch.cat([h, first], dim=1), places, emb)
    return linear(w, "out_layer", norm(h, 1e-5))
