"""Kill relays, their workers, producers and the broker, and record what each process does.

``python -m helpers.relay_crash DIRECTORY BROKER SCENARIO`` runs one of these scenarios with ``redis`` or ``rabbitmq``:

=============================  =====================================================================================
``random HANDLERS ROUNDS N``   kill about ROUNDS processes and N times the broker; the relays have 1 or 3 handlers
``steps``                      kill one process before each of its system calls
=============================  =====================================================================================

All processes append what they do to a journal, see `helpers.relay_crash.journal`. tests/test_relay_crash.py runs the
scenarios and checks the journal. The processes are forked from one process that has imported everything, because
starting an interpreter for each of them would take most of the time.
"""

QUEUE = "e3-event"
TEXT = "x" * 2000  # in each event
CONTENT = b"0123456789abcdef" * 1024  # of each attachment
