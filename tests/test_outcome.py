"""Delivery and Outcome: truth value and text."""

from __future__ import annotations

import pytest

from event import Delivery, EventError, Outcome, PermanentError

DELIVERED = Delivery("file", ok=True, error=None, seconds=0.0123)
RETURNED_FALSE = Delivery("smtp:nightly", ok=False, error=None, seconds=1.0)
LOGGED = Delivery("smtp", ok=False, error=None, seconds=1.0, said="no server took it")
PERMANENT = Delivery("s3", ok=False, error=PermanentError("no such bucket"), seconds=0.5)
RAISED = Delivery("s3", ok=False, error=EventError(["no bucket", "no key"]), seconds=0.5)


@pytest.mark.parametrize(
    ("delivery", "text"),
    [
        pytest.param(DELIVERED, "file: delivered in 0.012 s", id="delivered"),
        pytest.param(RETURNED_FALSE, "smtp:nightly: not delivered: the handler returned False", id="returned False"),
        pytest.param(RAISED, "s3: not delivered: no bucket; no key", id="raised"),
        pytest.param(LOGGED, "smtp: not delivered: no server took it", id="returned False, with a logged reason"),
        pytest.param(PERMANENT, "s3: not delivered: no such bucket", id="permanent failure"),
    ],
)
def test_text_of_a_delivery_is_one_line(delivery, text):
    assert str(delivery) == text
    assert repr(delivery) == f"<Delivery {text}>"
    assert bool(delivery) is (delivery is DELIVERED)
    assert delivery.reason == text.partition("not delivered: ")[2]
    assert delivery.permanent is (delivery is PERMANENT)


@pytest.mark.parametrize(
    ("deliveries", "good"),
    [
        pytest.param((), True, id="no handlers"),
        pytest.param((DELIVERED, DELIVERED), True, id="all delivered"),
        pytest.param((DELIVERED, RETURNED_FALSE), False, id="one returned False"),
        pytest.param((RAISED, DELIVERED), False, id="one raised"),
    ],
)
def test_outcome_is_true_if_every_handler_delivered(deliveries, good):
    outcome = Outcome(deliveries)
    assert bool(outcome) is good
    assert tuple(outcome) == outcome.deliveries == deliveries
    assert len(outcome) == len(deliveries)


def test_an_outcome_has_a_line_for_each_handler():
    assert str(Outcome((DELIVERED, RETURNED_FALSE))) == f"{DELIVERED}\n{RETURNED_FALSE}"
    assert repr(Outcome((DELIVERED, RETURNED_FALSE))) == f"<Outcome {DELIVERED}; {RETURNED_FALSE}>"
    assert str(Outcome(())) == "no handlers"
    assert repr(Outcome(())) == "<Outcome no handlers>"
