"""Which kind of context each call of a network has, without a pipeline."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fast_sam3d.exact.attention import AttentionSeam
from fast_sam3d.exact.context import MOST, Contexts, CrossAttentionSeam, _some, contexts_of, watch_context
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.patch import Layer
from fast_sam3d.sampling.guide import SolveState
from fast_sam3d.sampling.stage import by_keyword

FIRST = torch.arange(6.0).reshape(1, 2, 3)
X, T = torch.zeros(1, 4, 3), torch.tensor(0.5)


def solve() -> SolveState:
    return SolveState(branch=partial(by_keyword, print))


def kinds(*calls: tuple[tuple[Any, ...], dict[str, Any]], **attributes: Any) -> list[str | int | None]:
    """The kinds that calls of one network in one solve are given, in order."""
    network = SimpleNamespace(**{"training": False, "force_zeros_cond": True, **attributes})
    state, seen = solve(), []
    for args, kwargs in calls:
        watch_context(network, state, lambda *a, **k: seen.append(contexts_of(state).kind), *args, **kwargs)
        assert contexts_of(state).kind is None, "only during the call"
    return seen


def conditional(condition: Any, **named: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (X, T, condition), named


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (FIRST, 0),
        (FIRST.clone(), 0),
        (FIRST[:], 0),
        (FIRST + 1, 1),
        (FIRST.double(), 1),
        (FIRST[:, :1], 1),
        (FIRST.repeat(2, 1, 1), 1),  # equal by broadcasting
        (FIRST[0], 1),
        (None, 1),
    ],
)
def test_contexts_are_numbered_by_their_values(second: Any, expected: int) -> None:
    assert kinds(conditional(FIRST), conditional(second), conditional(FIRST)) == [0, expected, 0]


def test_only_a_few_contexts_are_kept() -> None:
    calls = [conditional(FIRST + number) for number in range(MOST + 2)]
    assert kinds(*calls, conditional(FIRST)) == [*range(MOST), None, None, 0]


def test_views_of_one_tensor_are_compared_without_waiting_for_the_device() -> None:
    state, network = solve(), SimpleNamespace(training=False)
    for view in (FIRST[:, :1], FIRST[:, 1:], FIRST[:, :1]):
        watch_context(network, state, lambda *a, **k: None, X, T, view)
    assert state.syncs.count == 1 and len(contexts_of(state).known) == 2


def test_state_time_step_size_and_voxels_are_no_condition() -> None:
    first = ((X, T, FIRST), {"d": torch.tensor(1.0), "coords": torch.zeros(5, 4)})
    other = ((X + 1, T + 1, FIRST), {"d": torch.tensor(2.0), "coords": torch.ones(7, 4)})
    assert kinds(first, other, conditional(FIRST, pose=FIRST)) == [0, 0, 1]
    rows = torch.zeros(5, 4)
    assert kinds(((X, T, FIRST, rows), {}), ((X, T, FIRST, rows + 1), {})) == [0, 0]
    assert kinds(((X, T, rows[None]), {}), ((X, T, rows[None] + 1), {})) == [0, 1]


def test_unconditional_calls_are_those_of_guidance_on_a_network_that_zeroes_its_context() -> None:
    unconditional = ((X, T, FIRST), {"cfg": True})
    assert kinds(unconditional, conditional(FIRST)) == ["unconditional", 0]
    assert kinds(unconditional, conditional(FIRST), force_zeros_cond=False) == [None, 0]
    assert kinds(unconditional, conditional(FIRST), training=True) == [None, None]


def test_an_inner_call_has_the_kind_of_the_outer_one_and_a_failed_one_leaves_none() -> None:
    state, network, seen = solve(), SimpleNamespace(training=False, force_zeros_cond=True), []

    def outer(*args: Any, **kwargs: Any) -> None:
        watch_context(network, state, lambda *a, **k: seen.append(contexts_of(state).kind), X, T, FIRST)
        raise KeyError

    with pytest.raises(KeyError):
        watch_context(network, state, outer, X, T, FIRST, cfg=True)
    assert seen == ["unconditional"] and contexts_of(state).kind is None


def test_memory_of_the_cache_is_that_of_keys_and_values() -> None:
    contexts = Contexts(SolveState().syncs)
    assert contexts.bytes == 0
    contexts.kept = {(1, 0): torch.zeros(2, 3), (2, 0): torch.zeros(4, dtype=torch.float16)}
    contexts.constants = {1: torch.zeros(100)}
    assert contexts.bytes == 2 * 3 * 4 + 4 * 2


class Attention(torch.nn.Module):
    """Adds the mean of its context, plus `bias` times the query."""

    bias = 0.0

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        assert len(x) == len(context)
        return context.mean(1, keepdim=True) + 1 + self.bias * x


@pytest.mark.parametrize("context", [torch.zeros(3, 1), torch.zeros(1, 1, 3, 1), None, [torch.zeros(1, 3, 1)]])
def test_a_context_of_another_form_is_passed_on(monkeypatch: pytest.MonkeyPatch, context: Any) -> None:
    contexts, given = Contexts(SolveState().syncs, kind="unconditional"), []
    monkeypatch.setattr("fast_sam3d.exact.context.active", lambda seam: contexts)
    attention = Attention()
    attention.forward = lambda *args: given.append(args) or "result"  # type: ignore[method-assign, assignment, func-returns-value]
    seam, x = CrossAttentionSeam(attention, "here"), torch.zeros(1, 5, 1)
    seam.add(Layer(None, True, SimpleNamespace(unconditional=True)))
    assert seam(x, context) == "result" and len(given) == 1 and given[0][1] is context


def test_the_first_voxels_are_probed_as_those_of_one_object() -> None:
    coords = torch.tensor([[0, 1, 2, 3], [1, 4, 5, 6], [1, 7, 8, 9]])
    few = _some(SparseTensor(torch.arange(3.0)[:, None], coords), 2)
    assert few.coords.tolist() == [[0, 1, 2, 3], [0, 4, 5, 6]] and few.feats.tolist() == [[0.0], [1.0]]
    assert coords[1, 0] == 1


@pytest.mark.parametrize(("dtype", "bias", "constant"), [
    (torch.float32, 0.0, True), (torch.float32, 1e-4, False), (torch.float32, 1e-6, True),
    (torch.bfloat16, 0.02, True), (torch.bfloat16, 0.1, False),
    (torch.float16, 0.002, True), (torch.float16, 0.01, False),
])  # fmt: skip
def test_a_result_that_depends_on_the_query_by_more_than_rounding_is_not_constant(
    dtype: torch.dtype, bias: float, constant: bool
) -> None:
    attention = Attention()
    attention.bias = bias
    seam = CrossAttentionSeam(attention, "here")
    x = torch.linspace(0, 1, 5, dtype=dtype).reshape(1, 5, 1).repeat(2, 1, 1)  # two objects
    row = attention(x[:1, :1], torch.zeros(1, 1, 1, dtype=dtype)).reshape(-1)
    state = SolveState()
    assert seam._is_constant(attention, x, torch.zeros(1, 3, 1, dtype=dtype), row, state.syncs) == constant
    assert not seam._is_constant(attention, x, torch.ones(1, 3, 1, dtype=dtype), row, state.syncs)
    assert state.syncs.count == 2


def test_a_saving_is_wanted_where_an_installation_asks_for_it() -> None:
    attention = Attention()
    seam = AttentionSeam(attention)
    assert not seam.wanted("attention")
    seam.add(Layer(None, True, SimpleNamespace(attention=False)))
    seam.add(Layer(None, True, SimpleNamespace()))
    assert not seam.wanted("attention")
    seam.add(Layer(None, True, SimpleNamespace(attention=True)))
    assert seam.wanted("attention") and not seam.wanted("context")
