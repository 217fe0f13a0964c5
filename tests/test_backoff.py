"""The delay between attempts."""

from __future__ import annotations

import pytest

from event._backoff import backoff


@pytest.mark.parametrize(("failures", "expected"), [(-1, 60), (0, 60), (1, 120), (3, 480), (9, 21600), (10**6, 21600)])
def test_delay_doubles_up_to_the_longest(failures, expected):
    assert backoff(failures, 60, 21600, 0.5) == expected


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 45), (1.0, 75)])
def test_delay_varies_by_a_quarter_either_way(chance, expected):
    assert backoff(0, 60, 21600, chance) == expected


def test_delay_varies_by_default():
    delays = [backoff(0, 60, 21600) for _ in range(50)]
    assert len(set(delays)) > 1
    assert all(45 <= delay <= 75 for delay in delays)
