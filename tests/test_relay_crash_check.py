"""The check of tests/test_relay_crash.py accepts a repeated delivery only if it has a cause."""

from __future__ import annotations

import pytest

from helpers.relay_crash.journal import Line
from helpers.relay_crash.repeats import count_repeats

# Kinds of lines that are not about a sending
_PROCESS_KINDS = {"broker-killed", "connection-lost", "killed", "paused", "resumed", "worker-started"}
ONCE = "publishing 1; publish-recorded 1; received 2; worker-received 4; delivered 4; worker-reported 4; acknowledged 2"
AGAIN_BY_3 = "received 3; delivered 3; acknowledged 3"
AGAIN_BY_2 = "received 2; delivered 2; acknowledged 2"


def journal(text):
    """Return the lines of a journal with one sending, from items ``KIND PROCESS [of RELAY] [at BEGIN]``.

    Unless `BEGIN` is given, an action takes no time. Items are one second apart.
    """
    lines = []
    for number, item in enumerate(text.split("; ")):
        kind, pid, *words = item.split()
        details = dict(zip(words[::2], words[1::2], strict=True))
        sending = "-" if kind in _PROCESS_KINDS else "s"
        begin = float(details.get("at", number))
        lines.append(Line(kind, sending, details.get("of", "-"), pid, begin, float(number)))
    return lines


def test_single_delivery_is_not_a_repeat():
    assert count_repeats(journal(ONCE), acks_may_be_lost=False) == 0


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "publishing 1; killed 1; publishing 3; publish-recorded 3; delivered 2; delivery-recorded 2; "
            "delivered 2; delivery-recorded 2",
            id="producer was killed while it published",
        ),
        pytest.param(
            f"received 1; delivered 1; killed 1; {AGAIN_BY_2}", id="relay was killed before its acknowledgement"
        ),
        pytest.param(
            "received 1; worker-received 3; killed 3; delivered 2; delivered 2; worker-reported 2; acknowledged 1",
            id="worker was killed before its report",
        ),
        pytest.param(
            "received 2; worker-received 3; worker-reported 3; acknowledged 2; delivered 3; killed 3; delivered 4",
            id="worker was killed before it recorded the delivery",
        ),
        pytest.param(
            "worker-started 3 of 1; worker-received 3; delivered 3; killed 1; delivered 2; delivery-recorded 2; "
            "worker-started 3 of 1; killed 1",
            id="worker ended with its killed relay",
        ),
        pytest.param(
            f"received 1; killed 1; {AGAIN_BY_2}; delivered 3; delivery-recorded 3; killed 1",
            id="relay was killed, and later another process with its id",
        ),
        pytest.param(
            f"received 1; delivered 1; killed 1 at -1; {AGAIN_BY_2}", id="relay still worked while it was being killed"
        ),
        pytest.param(
            "received 1; paused 1; received 2; worker-received 3; worker-reported 3; acknowledged 2; "
            "worker-received 4; delivered 4; worker-reported 4; acknowledged 1; delivered 3; delivery-recorded 3",
            id="relay was paused with the message",
        ),
        pytest.param(f"publishing 1; paused 2; {AGAIN_BY_3}; {AGAIN_BY_2}", id="relay was paused while it received"),
        pytest.param(
            f"paused 2; publishing 1; {AGAIN_BY_3}; resumed 2; {AGAIN_BY_2}",
            id="relay was paused before the event was published, and resumed after it was delivered",
        ),
        pytest.param(
            f"broker-killed -; received 1; delivered 1; connection-lost 1; {AGAIN_BY_2}",
            id="relay lost the connection",
        ),
        pytest.param(
            "broker-killed -; received 1; worker-received 3; delivered 3; worker-reported 3; connection-lost 1; "
            "received 1; worker-received 3; delivered 3; worker-reported 3; acknowledged 1",
            id="relay lost the connection, and received the message again",
        ),
        pytest.param(
            "broker-killed -; publishing 1; publish-failed 1; publishing 1; delivered 2; delivery-recorded 2; "
            "delivered 2",
            id="publishing failed",
        ),
    ],
)
def test_repeat_after_an_unfinished_step_is_accepted(text):
    assert count_repeats(journal(text), acks_may_be_lost=False) == 1


LOST_ACKNOWLEDGEMENTS = [
    pytest.param(f"{ONCE}; killed 2; {AGAIN_BY_3}", id="relay was killed after its acknowledgement"),
    pytest.param(f"{ONCE}; broker-killed -; {AGAIN_BY_2}", id="broker was killed after the acknowledgement"),
    pytest.param(
        f"publishing 1; received 2; delivered 2; broker-killed -; acknowledged 2; {AGAIN_BY_3}",
        id="broker was killed before the acknowledgement",
    ),
    pytest.param(
        "received 1; delivered 2; worker-reported 2; acknowledged 1; broker-killed - at -1; received 3; delivered 3",
        id="broker still worked while it was being killed",
    ),
]


@pytest.mark.parametrize("text", LOST_ACKNOWLEDGEMENTS)
def test_repeat_after_a_lost_acknowledgement_is_accepted_if_the_broker_confirms_none(text):
    assert count_repeats(journal(text), acks_may_be_lost=True) == 1


@pytest.mark.parametrize(
    "text",
    [
        *LOST_ACKNOWLEDGEMENTS[:2],
        pytest.param(f"{ONCE}; delivered 2", id="no process was killed"),
        pytest.param(f"{ONCE}; killed 3; delivered 2", id="another process was killed"),
        pytest.param(f"{ONCE}; killed 2; delivered 2", id="relay was killed after it had finished"),
        pytest.param(f"{ONCE}; killed 1; delivered 2", id="producer was killed after it had recorded the publication"),
        pytest.param(f"{ONCE}; killed 4; delivered 2", id="worker was killed after its report"),
        pytest.param(f"{ONCE}; received 2; delivered 2; delivered 2; killed 2", id="relay was killed after the repeat"),
        pytest.param(
            f"paused 3; resumed 3; publishing 1; {AGAIN_BY_2}; {AGAIN_BY_3}",
            id="relay was paused before the event was published",
        ),
        pytest.param(f"{ONCE}; paused 3; {AGAIN_BY_3}", id="relay was paused after the acknowledgement"),
        pytest.param(
            f"publishing 1; paused 2; resumed 2; {AGAIN_BY_2}; {AGAIN_BY_2}",
            id="relay was paused before it received the message",
        ),
        pytest.param(
            f"received 2; publishing 2; acknowledged 2; killed 2; {AGAIN_BY_3}; delivered 3",
            id="relay was killed after it had requeued the message",
        ),
        pytest.param(
            "broker-killed -; publishing 1; publish-failed 1; publishing 1; delivered 2; delivered 2; delivered 2",
            id="publishing failed once, and the event was delivered three times",
        ),
    ],
)
def test_repeat_without_a_cause_is_an_error(text):
    with pytest.raises(AssertionError, match=r"delivered \d times for \d causes"):
        count_repeats(journal(text), acks_may_be_lost=False)


@pytest.mark.parametrize("item", ["connection-lost 2", "publishing 1; publish-failed 1"])
def test_lost_connection_to_a_broker_that_was_not_killed_is_an_error(item):
    with pytest.raises(AssertionError, match="although it was not killed"):
        count_repeats(journal(f"{ONCE}; {item}"), acks_may_be_lost=False)
