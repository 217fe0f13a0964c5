import subprocess
import time

import event

event.load_handlers_from_env()

with event.track("unit"):
    time.sleep(1)

with event.track("network"):
    server = ["e3-event", "run", "server", "--", "sleep", "0.7"]
    subprocess.run(server, env=event.child_environment(), check=True)
    with event.track("connect"):
        time.sleep(0.4)
        raise ConnectionRefusedError("db.corp.test refused")
