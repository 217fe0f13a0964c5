"""A mail server on 127.0.0.1: aiosmtpd."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from contextlib import contextmanager

from aiosmtpd.smtp import SMTP, AuthResult

PASSWORD = "correct-horse"

logging.getLogger("mail.log").setLevel(logging.CRITICAL + 1)  # hide aiosmtpd's messages from the tests


class Mailbox:
    """The received mails, and the rules of the server.

    :param refuse: refused recipients; a dict of recipient -> answer; or "all"
    :param refuse_data: the answer to DATA
    :param most: the largest number of recipients of a transaction
    :ivar envelopes: the received mails, as aiosmtpd's `Envelope`
    :ivar logins: (user, password) of each login
    :ivar secured: for each mail, whether the connection used TLS
    :ivar asked: each recipient that a client has named, including the refused ones
    :ivar greeted: the argument of each EHLO
    """

    def __init__(self, port, refuse=(), refuse_data=None, most=1000):
        self.port = port
        self.envelopes = []
        self.logins = []
        self.secured = []
        self.asked = []
        self.greeted = []
        self.refuse = refuse
        self.refuse_data = refuse_data
        self.most = most

    async def handle_EHLO(self, server, session, envelope, hostname, responses):  # noqa: N802  # the names that aiosmtpd calls
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

    def authenticate(self, server, session, envelope, mechanism, data):
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password.decode() == PASSWORD, handled=False)


@contextmanager
def smtp_server(tls=None, family=socket.AF_INET, port=0, **options):
    """Run a server; yield its `Mailbox`.

    :param tls: the SSLContext of a server that uses TLS from the start of a connection
    :param port: a port of `servers.process.free_port`, so that a client can try it before the server runs
    :param options: `refuse`, `refuse_data` and `most` of `Mailbox`, and the parameters of aiosmtpd's `SMTP`
    """
    listener = socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", port), family=family)
    rules = {name: options.pop(name) for name in ("refuse", "refuse_data", "most") if name in options}
    mailbox = Mailbox(listener.getsockname()[1], **rules)
    options = {"enable_SMTPUTF8": True, "data_size_limit": 64 << 20, "hostname": "localhost", **options}
    if options.get("auth_required"):
        options["authenticator"] = mailbox.authenticate
    loop = asyncio.new_event_loop()
    sessions = []

    def start_session():
        session = SMTP(mailbox, loop=loop, **options)
        # aiosmtpd does not notice TLS from the start, so it would refuse logins. Its constructor's parameter for this
        # makes it warn.
        session._auth_require_tls = "authenticator" not in options
        sessions.append(session)
        return session

    server = loop.run_until_complete(loop.create_server(start_session, sock=listener, ssl=tls))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield mailbox
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(_close(sessions))
        loop.close()


async def _close(sessions):
    """Close the connections that a test has left open, and end their tasks."""
    for session in sessions:
        if session.transport is not None and not session.transport.is_closing():
            session.transport.abort()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
