from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genconvit.train.stopping import EarlyStopping


def test_a_higher_auc_is_better_whatever_the_loss() -> None:
    stopping = EarlyStopping(patience=3, min_delta=0.001)
    assert stopping.update(1, auc=0.6, loss=0.5)
    assert stopping.update(2, auc=0.7, loss=0.9)
    assert not stopping.update(3, auc=0.65, loss=0.1)
    assert stopping.best_epoch == 2


def test_among_equal_aucs_the_lower_loss_is_better() -> None:
    stopping = EarlyStopping(patience=3, min_delta=0.001)
    stopping.update(1, auc=1.0, loss=0.5)
    assert stopping.update(2, auc=1.0, loss=0.4)
    assert not stopping.update(3, auc=1.0, loss=0.3999)


def test_it_stops_after_patience_epochs_without_progress() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.001)
    stopping.update(1, auc=0.9, loss=0.5)
    stopping.update(2, auc=0.8, loss=0.6)
    assert not stopping.should_stop
    stopping.update(3, auc=0.8, loss=0.6)
    assert stopping.should_stop


def test_with_one_class_the_loss_alone_counts() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.001)
    stopping.update(1, auc=None, loss=0.5)
    assert stopping.update(2, auc=None, loss=0.4)


epochs = st.lists(
    st.tuples(st.none() | st.floats(0, 1), st.floats(0.01, 5)), min_size=1, max_size=30
)


@given(epochs, st.integers(0, 29))
def test_a_restored_one_goes_on_as_if_never_stopped(
    scores: list[tuple[float | None, float]], cut: int
) -> None:
    whole = EarlyStopping(patience=3, min_delta=0.001)
    first = EarlyStopping(patience=3, min_delta=0.001)
    expected = [whole.update(epoch, *score) for epoch, score in enumerate(scores, start=1)]
    got = [first.update(epoch, *score) for epoch, score in enumerate(scores[:cut], start=1)]
    second = EarlyStopping(patience=3, min_delta=0.001)
    second.load_state_dict(first.state_dict())
    rest = enumerate(scores[cut:], start=len(scores[:cut]) + 1)
    got += [second.update(epoch, *score) for epoch, score in rest]
    assert got == expected
    assert second.state_dict() == whole.state_dict()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 5)), min_size=1, max_size=30))
def test_the_kept_auc_is_the_highest_but_for_min_delta(scores: list[tuple[float, float]]) -> None:
    stopping = EarlyStopping(patience=100, min_delta=0.001)
    for epoch, score in enumerate(scores, start=1):
        stopping.update(epoch, *score)
    assert stopping.best_auc is not None
    assert stopping.best_auc >= max(auc for auc, _ in scores) - 0.001
