"""Do the work of with_event.py without a library: python by_hand.py ATTACHMENT DIRECTORY."""

import hashlib
import json
import os
import shutil
import sys
import time


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())


attachment, directory = sys.argv[1:]
event = {
    "uid": os.urandom(16).hex(),
    "name": "compile",
    "begin_time": now(),
    "target": "arm",
    "status": "ok",
    "count": 3,
}
with open(attachment, "rb") as file:
    checksum = hashlib.sha1(file.read()).hexdigest()
attachments = {"log": (attachment, checksum)}
event["end_time"] = now()

stem = os.path.join(directory, f"compile-{event['uid']}")
os.makedirs(stem)
for name, (path, _) in attachments.items():
    shutil.copy2(path, os.path.join(stem, name))
with open(f"{stem}-{os.urandom(16).hex()}.json", "w") as file:
    file.write(json.dumps(event, indent=2, sort_keys=True))
