"""Send an event with three values and a file through one handler: python with_event.py HANDLER ATTACHMENT DIRECTORY.

For e3-core, the benchmark replaces `event` by `e3.event`.
"""

import sys

import event

handler, attachment, directory = sys.argv[1:]
event.add_handler(handler, directory)
with event.Event("compile", target="arm") as e:
    e.status = "ok"
    e.count = 3
    e.attach_file(attachment, "log")
if not event.send_event(e):
    sys.exit("not delivered")
