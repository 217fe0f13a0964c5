"""Real mail servers on 127.0.0.1: aiosmtpd, with certificates of a private authority; and some that misbehave."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from contextlib import contextmanager

import trustme
from aiosmtpd.smtp import SMTP, AuthResult

PASSWORD = "correct-horse"

logging.getLogger("mail.log").setLevel(logging.CRITICAL + 1)  # aiosmtpd's: the tests read what ours says


class Authority:
    """A certificate authority, whose certificate stands in the file `path`."""

    def __init__(self, directory):
        self.authority = trustme.CA()
        self.path = str(directory / "authority.pem")
        self.authority.cert_pem.write_to_path(self.path)

    def context(self, *names):
        """Return a server's context with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names).configure_cert(context)
        return context


class Mailbox:
    """What a server got, and whom it refuses.

    :ivar envelopes: as aiosmtpd has them
    :ivar asked: each recipient that a client has named, in order
    :ivar greeted: the name that each client has given itself
    """

    def __init__(self, refuse=(), refuse_data=None, most=1000):
        self.envelopes = []
        self.logins = []
        self.secured = []
        self.asked = []
        self.greeted = []
        self.refuse = refuse
        self.refuse_data = refuse_data
        self.most = most

    async def handle_EHLO(self, server, session, envelope, hostname, responses):  # noqa: N802  # aiosmtpd's names
        self.greeted.append(hostname)
        session.host_name = hostname
        return responses

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        self.asked.append(address)
        if self.refuse == "all" or address in self.refuse:
            return self.refuse[address] if isinstance(self.refuse, dict) else "550 no such\ruser here"
        if len(envelope.rcpt_tos) >= self.most:
            return "452 4.5.3 too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        if self.refuse_data:
            return self.refuse_data
        self.envelopes.append(envelope)
        self.secured.append(server.transport.get_extra_info("ssl_object") is not None)
        return "250 OK"

    def check(self, server, session, envelope, mechanism, data):
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password.decode() == PASSWORD, handled=False)


@contextmanager
def smtp_server(tls=None, family=socket.AF_INET, port=0, **more):
    """Run a server; give its Mailbox, which has the `port` too.

    :param tls: the context of a server that speaks TLS from the start
    :param port: one that `servers.process.free_port` has found, so that a client can try it before the server runs
    :param more: `refuse` (addresses, or what each is answered), `refuse_data` and `most` (recipients in a transaction)
        of Mailbox; what else aiosmtpd's SMTP takes
    """
    mailbox = Mailbox(**{name: more.pop(name) for name in ("refuse", "refuse_data", "most") if name in more})
    more = {"enable_SMTPUTF8": True, "data_size_limit": 64 << 20, "hostname": "localhost", **more}
    if more.get("auth_required"):
        more["authenticator"] = mailbox.check
    listener = socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", port), family=family)
    mailbox.port = listener.getsockname()[1]
    loop = asyncio.new_event_loop()
    talks = []

    def talk():
        talks.append(SMTP(mailbox, loop=loop, **more))
        # TLS from the start does not count for aiosmtpd; to say so to its constructor makes it warn.
        talks[-1]._auth_require_tls = "authenticator" not in more
        return talks[-1]

    server = loop.run_until_complete(loop.create_server(talk, sock=listener, ssl=tls))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield mailbox
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(_hang_up(talks))
        loop.close()


async def _hang_up(talks):
    """Close what a test left open, and let the loop forget it."""
    for talk in talks:
        if talk.transport is not None and not talk.transport.is_closing():
            talk.transport.abort()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


@contextmanager
def raw_server(serve):
    """Run a server that gives each connection to serve(connection, stopped), in a thread; give its port.

    `stopped` is an event that is set when the test is over.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()
    connections = []

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            if stopped.is_set():
                return
            try:
                serve(connection, stopped)
            except OSError:
                pass

    thread = threading.Thread(target=accept)
    thread.start()
    port = listener.getsockname()[1]
    try:
        yield port
    finally:
        stopped.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()
        listener.close()
        for connection in connections:
            connection.close()
