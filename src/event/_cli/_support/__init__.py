"""What several commands share.

================= =======================================================================
module            holds
================= =======================================================================
`parser`          the argument parser of all commands
`fast_parser`     the same for the usual options of `send` and `run`, without argparse
`help_text`       the help of ``e3-event``, and the list of commands
`arguments`       an event's name and data from ``NAME key=value key:=json``
`handler_options` the options that select handlers, outbox and timeout
`handler_loading` `load`: construct handlers, and collect why others are broken
`outbox_index`    which outbox the arguments name, and how many entries it has
`terminal`        print to stdout and stderr, safely
================= =======================================================================
"""
