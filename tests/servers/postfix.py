"""A Postfix on 127.0.0.1 with its own mailboxes. It forwards nothing."""

from __future__ import annotations

import email
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from email import policy
from pathlib import Path

import pytest

from servers.process import TIMEOUT, Server, find_program, running_server

# "reject": a line that does not end with CRLF is an error.
MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
daemon_directory = {daemons}
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
myhostname = {name}
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
virtual_mailbox_domains = example.com
virtual_mailbox_base = {directory}/boxes
virtual_mailbox_maps = texthash:{directory}/recipients
virtual_mailbox_limit = 0
virtual_uid_maps = static:{user}
virtual_gid_maps = static:{group}
smtpd_forbid_bare_newline = reject
"""
MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
QUEUES = ("maildrop", "incoming", "active", "deferred")


class Postfix(Server):
    """A Postfix server.

    :param recipients: the addresses that have a mailbox
    :param settings: additional settings for main.cf
    """

    def __init__(self, directory, recipients, **settings):
        super().__init__(directory)
        self.name = f"{self.password}.test"
        self.recipients = recipients
        import pwd  # Windows does not have it

        daemons = _setting("daemon_directory")
        self.command = [os.path.join(daemons, "master"), "-c", str(directory / "etc"), "-d"]
        user = pwd.getpwnam("postfix")
        for name in ("etc", "queue", "data", "boxes"):
            (directory / name).mkdir()
        for name in ("data", "boxes"):
            os.chown(directory / name, user.pw_uid, user.pw_gid)
        boxes = "".join(f"{address} {number}/\n" for number, address in enumerate(recipients))
        (directory / "recipients").write_text(boxes, encoding="utf-8")
        values = {"directory": directory, "daemons": daemons, "name": self.name}
        main = MAIN.format(**values, user=user.pw_uid, group=user.pw_gid)
        main += "".join(f"{name} = {value}\n" for name, value in settings.items())
        (directory / "etc" / "main.cf").write_text(main)
        (directory / "etc" / "master.cf").write_text(MASTER.format(port=self.port))
        subprocess.run(["postfix", "-c", directory / "etc", "check"], check=True, stderr=subprocess.DEVNULL)

    def ping(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if self.name.encode() not in connection.recv(1000):
                raise ConnectionError("another server answers")

    def mails(self, recipient):
        """Wait until the mail queue is empty; return the mails of a recipient."""
        end = time.monotonic() + TIMEOUT
        while any(files for queue in QUEUES for _, _, files in os.walk(self.directory / "queue" / queue)):
            assert time.monotonic() < end, self._end_of_log()
            time.sleep(0.02)
        box = self.directory / "boxes" / str(self.recipients.index(recipient)) / "new"
        paths = sorted(box.iterdir()) if box.exists() else []
        return [email.message_from_bytes(path.read_bytes(), policy=policy.default) for path in paths]


def _setting(name):
    done = subprocess.run(["postconf", "-h", "-d", name], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@contextmanager
def postfix_server(*recipients, **settings):
    """Run a server for recipients in the domain example.com; yield its `Postfix`."""
    find_program("postfix", "/usr/sbin")
    if os.geteuid() != 0:
        pytest.skip("only root can start Postfix")
    # The user postfix has no access to the directory of the tests.
    directory = Path(tempfile.mkdtemp(prefix="postfix-"))
    directory.chmod(0o755)
    try:
        with running_server(Postfix(directory, recipients, **settings)) as server:
            yield server
    finally:
        shutil.rmtree(directory)
