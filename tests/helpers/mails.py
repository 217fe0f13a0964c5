"""Send events by the smtp handler, and read the mails that a server has received."""

from __future__ import annotations

import email
from email import policy

import event
from event._event_copies import with_delivered, with_sending
from event.handler.smtp import SMTPHandler
from servers.smtp import PASSWORD

SENDER, ANN, BOB = "builds@example.com", "ann@example.com", "bob@example.com"

MIB = 1 << 20


def closed_event(name="compile", **data):
    with event.Event(name, uid="u-1", **data) as closed:
        pass
    return closed


def event_with_files(tmp_path, files, **data):
    """Return a closed event.

    :param files: attachment name -> (name of the file, content)
    """
    with event.Event("compile", uid="u-1", **data) as made:
        for number, (name, (file_name, content)) in enumerate(files.items()):
            directory = tmp_path / str(number)
            directory.mkdir()
            (directory / file_name).write_bytes(content)
            made.attach_file(directory / file_name, name)
    return made


def handler_for(*servers, to=ANN, subject="built", sender=SENDER, timeout=None):
    addresses = [s if isinstance(s, str) else f"127.0.0.1:{s.port}" for s in servers]
    handler = SMTPHandler(subject, sender, to, addresses)
    if timeout:
        handler.timeout = timeout
    return handler


def parse_mail(envelope):
    return email.message_from_bytes(envelope.content, policy=policy.default)


def received_mail(server):
    (envelope,) = server.envelopes
    return parse_mail(envelope)


def text_of(mail):
    return mail.get_body(("plain",)).get_content().replace("\r\n", "\n")


def part_named(mail, name):
    (part,) = [part for part in mail.iter_parts() if part.get_filename() == name]
    return part


def logged_warnings(caplog):
    assert {record.levelname for record in caplog.records} <= {"WARNING"}
    assert {record.name for record in caplog.records} <= {"event"}
    return "\n".join(record.getMessage() for record in caplog.records)


def scripted_server(*lines):
    """Return a function for `raw_server`: send each line, read a line of the client after it, and disconnect."""

    def serve(connection, _stopped):
        with connection, connection.makefile("rb") as file:
            for line in lines:
                connection.sendall(line)
                file.readline()

    return serve


def silent(_connection, stopped):
    stopped.wait()


def write_netrc(home, host="127.0.0.1", password=PASSWORD, name=".netrc"):
    path = home / name
    path.write_text(f"machine {host} login ann password {password}\n", encoding="utf-8")
    return path


def after_partial_delivery(sent, *keys, sending="sending-1"):
    """Return an event as an outbox passes it to a handler again, if some recipients already have the mail."""
    return with_delivered(with_sending(sent, sending), keys)
