"""The handler of a plugin. It does the same work as by_hand.py, in the same way."""

import json
import os
import shutil


class Handler:
    """Write an event and its attachments into a directory."""

    def __init__(self, directory):
        self.directory = directory

    @classmethod
    def decode_config(cls, config_str):
        return {"directory": config_str}

    def encode_config(self):
        return self.directory

    def send_event(self, event):
        stem = os.path.join(self.directory, f"{event.name}-{event.uid}")
        os.makedirs(stem)
        for name, (path, _) in event.get_attachments().items():
            shutil.copy2(path, os.path.join(stem, name))
        with open(f"{stem}-{os.urandom(16).hex()}.json", "w") as file:
            file.write(json.dumps(event.as_dict(), indent=2, sort_keys=True))
        return True
