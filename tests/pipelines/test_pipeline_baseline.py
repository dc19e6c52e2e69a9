"""Which approved statistics a batch is compared with."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

from tfx.types.standard_artifacts import ExampleStatistics

from pipelines.checks.baseline import APPROVED, LastApproved


def statistics(tmp_path, number: int, span: int = 0, of: int | None = None) -> ExampleStatistics:
    """An artifact; `of` another one's, where it is what the gate approved."""
    one = ExampleStatistics()
    one.id, one.span, one.uri = number, span, str(tmp_path / str(number))
    (tmp_path / str(number)).mkdir(exist_ok=True)
    if of is not None:
        one.set_int_custom_property(APPROVED, of)
    return one


def chosen(current, *approved) -> list[int]:
    found = LastApproved().resolve_artifacts(
        None, {"statistics": [current], "approved": list(approved)}
    )
    assert found["statistics"] == [current]
    return [one.id for one in found["approved"]]


def test_the_last_other_batch_and_for_the_same_batch_always_the_same(tmp_path):
    first = statistics(tmp_path, 2, of=1)
    assert chosen(statistics(tmp_path, 1)) == []
    third = statistics(tmp_path, 3)
    assert chosen(third, first) == [2]
    own = statistics(tmp_path, 4, of=3)
    later = statistics(tmp_path, 6, of=5)
    assert chosen(third, later, own, first) == [2]
    assert chosen(statistics(tmp_path, 1), later, own, first) == []
    assert chosen(statistics(tmp_path, 7), first, later, own) == [6]


def test_an_older_span_is_not_compared_with_a_later_one(tmp_path):
    approved = [statistics(tmp_path, n, span=s, of=n - 1) for n, s in ((2, 8), (4, 9), (6, 7))]
    assert chosen(statistics(tmp_path, 9, span=8), *approved) == [2]
    assert chosen(statistics(tmp_path, 9, span=10), *approved) == [4]
    assert chosen(statistics(tmp_path, 9, span=6), *approved) == []


def test_what_was_deleted_is_no_measure(tmp_path):
    approved = [statistics(tmp_path, n, of=n - 1) for n in (2, 4)]
    (tmp_path / "4").rmdir()
    assert chosen(statistics(tmp_path, 9), *approved) == [2]
