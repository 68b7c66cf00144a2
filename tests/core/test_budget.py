"""Sharing evaluations: never more than there are, never more than wanted, in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import BudgetError, Grant, Need, share

NEEDS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 5000), st.booleans()), max_size=6).map(
    lambda rows: {
        f"probe {i}": Need(least, least + more, skip="does not apply" if skip else "")
        for i, (least, more, skip) in enumerate(rows)
    }
)


@given(budget=st.integers(0, 20_000), needs=NEEDS)
def test_nobody_gets_more_than_there_is_or_than_they_want(budget, needs):
    grants = share(budget, needs, required=False)
    assert list(grants) == list(needs)
    assert sum(grant.evaluations for grant in grants.values()) <= budget
    for name, grant in grants.items():
        assert grant.evaluations == 0 or needs[name].least <= grant.evaluations <= needs[name].wanted
        assert not (grant.reason and grant.evaluations)


@given(budget=st.integers(0, 20_000), needs=NEEDS)
def test_everything_is_spent_or_everyone_served_is_content(budget, needs):
    grants = share(budget, needs, required=False)
    served = [name for name in needs if grants[name].evaluations]
    left = budget - sum(grant.evaluations for grant in grants.values())
    assert left == 0 or all(grants[name].evaluations == needs[name].wanted for name in served)


@given(budget=st.integers(0, 10_000), needs=NEEDS)
def test_a_larger_budget_takes_from_nobody_who_was_served_before(budget, needs):
    small, large = share(budget, needs, required=False), share(budget + 1000, needs, required=False)
    served = [name for name in needs if small[name].evaluations]
    if served == [name for name in needs if large[name].evaluations]:
        assert all(large[name].evaluations >= small[name].evaluations for name in served)


def test_all_wishes_are_met_when_the_budget_allows():
    grants = share(1000, {"a": Need(10, 100), "b": Need(20, 300)})
    assert grants == {"a": Grant(100), "b": Grant(300)}


def test_a_hungry_claimant_starves_nobody():
    grants = share(1000, {"hungry": Need(10, 10**9), "modest": Need(10, 200)})
    assert grants == {"hungry": Grant(800), "modest": Grant(200)}


def test_least_needs_are_served_in_order():
    grants = share(100, {"first": Need(60, 60), "second": Need(50, 50), "third": Need(40, 40)})
    assert [grant.evaluations for grant in grants.values()] == [60, 0, 40]
    assert grants["second"].reason == "needs at least 50 evaluations, 40 are left of the budget"


def test_a_claimant_that_does_not_apply_gets_its_own_reason():
    grants = share(100, {"a": Need(1, 10, skip="no labels"), "b": Need(1, 10)})
    assert grants == {"a": Grant(0, "no labels"), "b": Grant(10)}


def test_a_budget_that_answers_nothing_names_the_least_that_works():
    with pytest.raises(BudgetError, match="a budget of 5 evaluations answers no question; give at least 20"):
        share(5, {"a": Need(20, 100), "b": Need(1000, 1000)})
    assert share(5, {"a": Need(20, 100)}, required=False)["a"].evaluations == 0


def test_nobody_to_serve_is_no_error():
    assert share(0, {}) == {}
