"""Code that several commands share.

================= =======================================================================
module            contents
================= =======================================================================
`parser`          the argument parser of all commands
`fast_parser`     a parser for the usual command lines of `send`, `run` and `check`, without argparse
`help_text`       the help of ``e3-event``, and the list of commands
`settings`        the settings, from options, environment variables and the configuration file
`arguments`       an event's name and data from ``NAME key=value key:=json``
`handler_options` the options of several commands, and how they show results
`outbox_index`    the outbox of a command; the words and numbers for its entries
`outbox_listing`  the entries of an outbox, as text and as JSON
`stdin_file`      the content of stdin as a temporary file
`terminal`        print to stdout and stderr, safely; the documents of ``--json``
================= =======================================================================
"""
