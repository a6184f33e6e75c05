"""SkipGS's gate."""

from __future__ import annotations

from fast_sam3d.texture.gate import BackwardGate


def test_the_warm_up_always_has_a_backward_pass():
    gate = BackwardGate(3, warmup=30)
    assert all(gate.needs_backward(step % 3, 1.0 / (step + 1)) for step in range(30))
    assert gate.passes == gate.steps == 30


def test_a_loss_above_the_usual_one_passes_and_one_below_is_skipped():
    gate = BackwardGate(1, warmup=0)
    assert gate.needs_backward(0, 1.0)  # nothing is usual yet
    assert gate.floor == 1.0
    gate = BackwardGate(2, warmup=40)
    for step in range(40):
        gate.needs_backward(step % 2, 1.0 - step * 0.01)  # falls: the rule alone would let nothing through
    assert gate.floor == 0.5
    assert gate.needs_backward(0, 2.0) and gate.needs_backward(1, 2.0)
    assert not gate.needs_backward(0, 0.1)


def test_at_least_the_floor_has_backward_passes():
    gate = BackwardGate(4, warmup=40)
    for step in range(440):
        gate.needs_backward(step % 4, 1.0 / (step + 1))
        assert step < 40 or gate.passes - 40 >= gate.floor * (step - 39) - 1
    assert 0.49 < (gate.passes - 40) / 400 < 0.51


def test_views_have_their_own_usual_loss():
    gate = BackwardGate(2, warmup=20)
    for step in range(20):
        gate.needs_backward(step % 2, (1.0, 9.0)[step % 2])
    for _ in range(5):
        gate.needs_backward(0, 1.5)  # fills the floor
    assert gate.needs_backward(0, 2.5)
    assert not gate.needs_backward(1, 8.0)
