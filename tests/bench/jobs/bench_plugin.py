"""A handler as somebody's package would bring it; it does by_hand.py's work, with by_hand.py's means."""

import json
import os
import shutil


class Handler:
    """Writes an event and its attachments into a directory."""

    def __init__(self, directory):
        self.directory = directory

    @classmethod
    def decode_config(cls, config_str):
        """Return the constructor's argument."""
        return {"directory": config_str}

    def encode_config(self):
        """Return the configuration."""
        return self.directory

    def send_event(self, event):
        """Write the attachments, then the event."""
        stem = os.path.join(self.directory, f"{event.name}-{event.uid}")
        os.makedirs(stem)
        for name, (path, _) in event.get_attachments().items():
            shutil.copy2(path, os.path.join(stem, name))
        with open(f"{stem}-{os.urandom(16).hex()}.json", "w") as file:
            file.write(json.dumps(event.as_dict(), indent=2, sort_keys=True))
        return True
