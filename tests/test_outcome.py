"""What became of a sending: truth and text."""

from __future__ import annotations

import pytest

from event import Delivery, EventError, Outcome, PermanentError

TAKEN = Delivery("file", ok=True, error=None, seconds=0.0123)
REFUSED = Delivery("smtp:nightly", ok=False, error=None, seconds=1.0)
EXPLAINED = Delivery("smtp", ok=False, error=None, seconds=1.0, said="no server took it")
PERMANENT = Delivery("s3", ok=False, error=PermanentError("no such bucket"), seconds=0.5)
RAISED = Delivery("s3", ok=False, error=EventError(["no bucket", "no key"]), seconds=0.5)


@pytest.mark.parametrize(
    ("delivery", "text"),
    [
        pytest.param(TAKEN, "file: delivered in 0.012 s", id="taken"),
        pytest.param(REFUSED, "smtp:nightly: not delivered: the handler returned False", id="refused"),
        pytest.param(RAISED, "s3: not delivered: no bucket; no key", id="raised"),
        pytest.param(EXPLAINED, "smtp: not delivered: no server took it", id="refused, and the log told why"),
        pytest.param(PERMANENT, "s3: not delivered: no such bucket", id="raised for good"),
    ],
)
def test_a_delivery_reads_as_one_line(delivery, text):
    assert str(delivery) == text
    assert repr(delivery) == f"<Delivery {text}>"
    assert bool(delivery) is (delivery is TAKEN)
    assert delivery.reason == text.partition("not delivered: ")[2]
    assert delivery.permanent is (delivery is PERMANENT)


@pytest.mark.parametrize(
    ("deliveries", "good"),
    [
        pytest.param((), True, id="no handlers"),
        pytest.param((TAKEN, TAKEN), True, id="all took it"),
        pytest.param((TAKEN, REFUSED), False, id="one refused"),
        pytest.param((RAISED, TAKEN), False, id="one raised"),
    ],
)
def test_outcome_is_true_if_every_handler_delivered(deliveries, good):
    outcome = Outcome(deliveries)
    assert bool(outcome) is good
    assert tuple(outcome) == outcome.deliveries == deliveries
    assert len(outcome) == len(deliveries)


def test_an_outcome_has_a_line_for_each_handler():
    assert str(Outcome((TAKEN, REFUSED))) == f"{TAKEN}\n{REFUSED}"
    assert repr(Outcome((TAKEN, REFUSED))) == f"<Outcome {TAKEN}; {REFUSED}>"
    assert str(Outcome(())) == "no handlers"
    assert repr(Outcome(())) == "<Outcome no handlers>"
