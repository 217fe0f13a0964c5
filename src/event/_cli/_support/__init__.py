"""What several commands share.

================= =======================================================================
module            holds
================= =======================================================================
`parser`          the argument parser of all commands
`fast_parser`     the same for the usual options of `send` and `run`, without argparse
`help_text`       the help of ``e3-event``, and the list of commands
`settings`        what options, variables and the configuration file say, and which counts
`arguments`       an event's name and data from ``NAME key=value key:=json``
`handler_options` the options of several commands, and the lines about what handlers did
`handler_loading` `load`: construct handlers, and collect why others are broken
`outbox_index`    which outbox the arguments name, and how many entries it has
`outbox_listing`  the entries of an outbox, as text and as JSON
`json_output`     the documents of ``--json``
`terminal`        print to stdout and stderr, safely
================= =======================================================================
"""
