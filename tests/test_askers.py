"""How much of a line of promises each tenant may take."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveact_services.denoiser.askers import Askers


@given(
    asked=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from([1.0, 2.0, 4.0]), st.floats(0.0, 30.0)), max_size=40
    )
)
@settings(deadline=None, max_examples=100)
def test_shares_of_the_line_are_by_weight_among_those_refused_in_the_last_minute(
    asked: list[tuple[str, float, float]],
) -> None:
    askers, now, last = Askers(60.0), 0.0, dict[str, tuple[float, float]]()
    for tenant, weight, pause in asked:
        now += pause
        askers.refused(tenant, weight, now)
        last[tenant] = now, weight
        for one in "abcde":
            others = sum(w for name, (at, w) in last.items() if name != one and now - at <= 60.0)
            assert askers.share(one, 3.0, now) == pytest.approx(3.0 / (3.0 + others))
