"""The S3 client if objects are missing or differ, and if servers misbehave."""

from __future__ import annotations

import os
import pickle
import re
import threading
import traceback
from contextlib import suppress

import pytest

from event import _files
from event._net import s3
from event._net.s3 import ContentError, NotThereError, StoreError
from helpers.s3_objects import HELLO, MIB, URL, download, sha1, use_endpoint
from servers.http import Answer, http_server
from servers.raw import raw_http_server, silent_server
from servers.s3 import SECRET
from servers.tls import Authority

# Objects that differ from their reference


@pytest.mark.parametrize(
    ("size", "digest", "reason"),
    [
        pytest.param(4, sha1(HELLO), "has more than 4 bytes", id="larger"),
        pytest.param(0, sha1(b""), "has more than 0 bytes", id="larger-than-empty"),
        pytest.param(4, sha1(b"hell"), "has more than 4 bytes", id="larger-with-the-same-start"),
        pytest.param(-1, sha1(HELLO), "has more than -1 bytes", id="negative-size"),
        pytest.param(6, sha1(HELLO), "has 5 bytes, not 6", id="smaller"),
        pytest.param(5, sha1(b"other"), f"has the SHA-1 {sha1(HELLO)}, not {sha1(b'other')}", id="other"),
    ],
)
def test_object_that_differs_from_its_reference_is_refused(server, store, directory, size, digest, reason):  # noqa: PLR0913  # parametrized
    store.put(URL, HELLO, "text/plain")
    with pytest.raises(ContentError) as caught:
        store.download(URL, str(directory / "file"), size, digest)
    assert str(caught.value) == f"s3: 's3://events/a/b' {reason}"
    assert list(directory.iterdir()) == []
    assert download(store, directory) == HELLO  # the connection can still be used


def test_a_multipart_object_that_differs_in_its_last_byte_is_refused(server, store, tmp_path, directory):
    content = bytes(9 * MIB)
    (tmp_path / "file").write_bytes(content)
    store.upload(str(tmp_path / "file"), URL, "text/plain")
    with pytest.raises(ContentError, match="has the SHA-1"):
        download(store, directory, content[:-1] + b"x")
    assert list(directory.iterdir()) == []


def test_endless_object_does_not_fill_the_disk(store, directory, monkeypatch):
    def send_endlessly(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(OSError):  # the client closes the connection
            while True:
                connection.sendall(b"%x\r\n%s\r\n" % (MIB, bytes(MIB)))

    sizes = []
    unlink = _files.unlink_quietly
    monkeypatch.setattr(_files, "unlink_quietly", lambda path: sizes.append(os.path.getsize(path)) or unlink(path))

    with raw_http_server(send_endlessly) as endpoint:
        use_endpoint(endpoint, monkeypatch)
        with pytest.raises(ContentError, match=f"has more than {3 * MIB} bytes"):
            store.download(URL, str(directory / "file"), 3 * MIB, sha1(HELLO))
    assert sizes == [3 * MIB]
    assert list(directory.iterdir()) == []


def test_unneeded_rest_of_an_object_is_not_read(store, directory, monkeypatch):
    sent = 0

    def send_64_mib(connection):
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        with suppress(OSError):
            while sent < 64 * MIB:
                connection.sendall(bytes(MIB))
                sent += MIB

    with raw_http_server(send_64_mib) as endpoint:
        use_endpoint(endpoint, monkeypatch)
        with pytest.raises(ContentError, match="has more than 5 bytes"):
            download(store, directory)
    assert sent < 64 * MIB


# Missing objects and buckets


def call(store, method, file, directory):
    """Call a method of the store that sends a request."""
    if method == "put":
        store.put(URL, HELLO, "text/plain")
    elif method == "download":
        download(store, directory)
    else:
        store.upload(str(file), URL, "text/plain")


def test_missing_object_is_an_error(server, store, directory):
    with pytest.raises(NotThereError, match=r"^An error occurred \(NoSuchKey\)") as caught:
        download(store, directory)
    assert not isinstance(caught.value, FileNotFoundError)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("method", ["put", "upload", "upload-in-parts", "download"])
def test_missing_bucket_is_an_error(server, store, tmp_path, directory, method):
    server.client.delete_bucket(Bucket="events")
    with (tmp_path / "file").open("wb") as file:
        file.truncate(9 * MIB if method == "upload-in-parts" else 3)
    with pytest.raises(NotThereError, match="NoSuchBucket"):
        call(store, method, tmp_path / "file", directory)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "Not Found", id="without-a-body"),
        pytest.param(b"<Error><Code>NoSuchAccessPoint</Code></Error>", "NoSuchAccessPoint", id="access-point"),
    ],
)
def test_status_404_for_an_object_means_missing(store, directory, monkeypatch, body, reason):
    with http_server(Answer(404, {}, body)) as server:
        use_endpoint(server.url, monkeypatch)
        with pytest.raises(NotThereError, match=reason):
            download(store, directory)


def test_call_after_a_failed_one_succeeds(server, store, directory):
    with pytest.raises(NotThereError):
        download(store, directory)
    store.put(URL, HELLO, "text/plain")
    assert download(store, directory) == HELLO


# Servers that do not answer


@pytest.fixture(params=["put", "upload", "download"])
def error_of_call(request, store, tmp_path, directory):
    """Return a function that calls a method of the store, and returns the text of its `StoreError`."""

    def error_of_call():
        (tmp_path / "file").write_bytes(HELLO)
        with pytest.raises(StoreError) as caught:
            call(store, request.param, tmp_path / "file", directory)
        assert type(caught.value) is StoreError
        assert list(directory.iterdir()) == []
        shown = "".join(traceback.format_exception(caught.value))
        assert SECRET not in shown
        assert "pa55" not in shown
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return error_of_call


def test_server_that_is_down_is_an_error(error_of_call, monkeypatch):
    with silent_server() as endpoint:
        pass
    use_endpoint(endpoint, monkeypatch)
    assert error_of_call() == f"{endpoint.removeprefix('http://')}: connection refused"


def test_silent_server_is_an_error_at_the_timeout(error_of_call, monkeypatch):
    monkeypatch.setattr("event._net.s3_transport.READ_TIMEOUT", 0.2)
    with silent_server() as endpoint:
        use_endpoint(endpoint, monkeypatch)
        assert error_of_call() == f"{endpoint.removeprefix('http://')}: timed out"


@pytest.mark.parametrize("start", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"], ids=["head", "body"])
def test_dripping_server_is_abandoned_at_the_deadline(error_of_call, monkeypatch, start):
    monkeypatch.setattr(s3, "_S3_TOTAL_TIMEOUT", 0.5)
    ended = threading.Event()

    def drip(connection):
        connection.sendall(start)
        with suppress(OSError):
            while not ended.wait(0.2):
                connection.sendall(b"x")

    with raw_http_server(drip) as endpoint:
        use_endpoint(endpoint, monkeypatch)
        try:
            assert re.search("timed out|not done within|total timeout has expired", error_of_call())
        finally:
            ended.set()


@pytest.mark.parametrize("method", ["put", "upload"])
def test_endless_response_is_read_up_to_a_limit(store, tmp_path, directory, monkeypatch, method):
    sent = 0

    def send_64_mib(connection):
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(OSError):
            while sent < 64 * MIB:
                connection.sendall(bytes(MIB))
                sent += MIB

    (tmp_path / "file").write_bytes(HELLO)
    with raw_http_server(send_64_mib) as endpoint:
        use_endpoint(endpoint, monkeypatch)
        with pytest.raises(StoreError):
            call(store, method, tmp_path / "file", directory)
    assert sent < 64 * MIB


def test_truncated_response_is_an_error(store, monkeypatch):
    def truncate(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")

    with raw_http_server(truncate) as endpoint:
        use_endpoint(endpoint, monkeypatch)
        with pytest.raises(StoreError, match="An HTTP Client raised an unhandled exception"):
            store.put(URL, HELLO, "text/plain")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n"


def close_within_the_body(connection):
    connection.sendall(HEAD + bytes(1500000))


def corrupt_tls_record(connection):
    connection.sendall(HEAD + bytes(1500000))
    with open(connection.detach(), "wb", buffering=0) as raw:
        raw.write(b"this is not TLS" * 1000)


def test_connection_closed_within_the_body_is_an_error(store, directory, monkeypatch):
    with raw_http_server(close_within_the_body) as endpoint:
        use_endpoint(endpoint, monkeypatch)
        with pytest.raises(StoreError, match=r"1500000 (bytes )?read"):
            download(store, directory, bytes(2000000))
    assert list(directory.iterdir()) == []


def test_connection_silent_within_the_body_is_an_error(store, directory, monkeypatch):
    monkeypatch.setattr("event._net.s3_transport.READ_TIMEOUT", 0.2)
    has_failed = threading.Event()

    def fall_silent(connection):
        connection.sendall(HEAD + bytes(1500000))
        assert has_failed.wait(60)

    with raw_http_server(fall_silent) as endpoint:
        use_endpoint(endpoint, monkeypatch)
        try:
            with pytest.raises(StoreError, match=r"^timed out$"):
                download(store, directory, bytes(2000000))
        finally:
            has_failed.set()
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="platform: a socket is not a file descriptor")
def test_tls_failure_within_the_body_is_an_error(store, tmp_path, directory, monkeypatch):
    authority = Authority(tmp_path)
    with raw_http_server(corrupt_tls_record, authority.context("127.0.0.1")) as endpoint:
        use_endpoint(endpoint, monkeypatch, CA_BUNDLE=authority.path)
        with pytest.raises(StoreError, match=r"^TLS: wrong version number$"):
            download(store, directory, bytes(2000000))
    assert list(directory.iterdir()) == []


# Servers that refuse the request


@pytest.mark.parametrize("status", [403, 500, 503])
def test_error_status_of_the_server_is_an_error(error_of_call, monkeypatch, status):
    with http_server(status) as server:
        use_endpoint(server.url, monkeypatch)
        assert f"An error occurred ({status})" in error_of_call()
    assert len(server.requests) == 1


def test_status_404_for_a_multipart_upload_does_not_mean_missing(error_of_call, monkeypatch):
    with http_server(Answer(404, {}, b"<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>")) as server:
        use_endpoint(server.url, monkeypatch)
        assert "NoSuchUpload" in error_of_call()


def test_credentials_that_the_server_echoes_are_not_shown(error_of_call, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session-token")
    body = b"<Error><Code>InvalidToken</Code><Message>a-session-token YS1zZXNzaW9uLXRva2Vu is old</Message></Error>"
    with http_server(Answer(400, {}, body)) as server:
        use_endpoint(server.url, monkeypatch)
        assert error_of_call().endswith(": *** *** is old")
    assert server.requests[0].headers["x-amz-security-token"] == "a-session-token"


def test_endless_redirection_is_an_error(error_of_call, monkeypatch):
    with http_server(307) as server:
        use_endpoint(server.url, monkeypatch)
        assert error_of_call() == "the server redirects every request again"
    assert 2 < len(server.requests) < 1000


def test_endless_redirection_that_ends_in_the_http_client_is_the_same_error(error_of_call, monkeypatch):
    from botocore.exceptions import HTTPClientError
    from botocore.httpsession import URLLib3Session

    def recurse(self, request):
        try:
            raise RecursionError
        except RecursionError as error:
            raise HTTPClientError(error=error)  # noqa: B904  # as botocore does it

    monkeypatch.setattr(URLLib3Session, "send", recurse)
    assert error_of_call() == "the server redirects every request again"


@pytest.mark.parametrize("attempts", [1, 3])
def test_status_503_is_retried_a_few_times(store, directory, monkeypatch, attempts):
    with http_server(503) as server:
        use_endpoint(server.url, monkeypatch)
        if attempts == 3:
            monkeypatch.delenv("AWS_MAX_ATTEMPTS")  # the default
        with pytest.raises(StoreError):
            download(store, directory)
    assert len(server.requests) == attempts


# Settings


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param({"RETRY_MODE": "often"}, "Invalid value provided to", id="retry-mode"),
        pytest.param({"MAX_ATTEMPTS": "many"}, "invalid literal for int()", id="max-attempts"),
        pytest.param({"PROFILE": "none"}, "The config profile (none) could not be found", id="profile"),
        pytest.param({"ENDPOINT_URL": "localhost"}, "Invalid endpoint: ", id="endpoint"),
        pytest.param({"ACCESS_KEY_ID": ""}, "Unable to locate credentials", id="credentials"),
    ],
)
def test_invalid_setting_is_an_error(error_of_call, monkeypatch, settings, reason):
    use_endpoint("http://127.0.0.1:9", monkeypatch, **settings)
    assert error_of_call().startswith(reason)


def test_missing_credential_program_is_not_reported_as_a_missing_file(error_of_call, tmp_path, monkeypatch):
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {tmp_path}/none\n")
    use_endpoint("http://127.0.0.1:9", monkeypatch, CONFIG_FILE=str(config))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert error_of_call() == f"no such file or directory: '{tmp_path}/none'"


def test_password_of_an_endpoint_is_masked(error_of_call, monkeypatch):
    with silent_server() as endpoint:
        pass
    use_endpoint(endpoint.replace("//", "//user:pa55/w@rd@"), monkeypatch)
    assert re.fullmatch(r"Custom endpoint `http://\*\*\*@127.0.0.1:\d+` was not a valid URI", error_of_call())


# Errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("at http://u:p@h/x", "at http://***@h/x", id="one"),
        pytest.param("http://u:p/q@h, http://v:w@i", "http://***@h, http://***@i", id="two-with-a-slash"),
        pytest.param("a@b //c", "a@b //c", id="none"),
        pytest.param("//a@//b@c", "//***@c", id="several-in-a-word"),
    ],
)
def test_password_in_a_reason_is_masked(text, expected):
    assert s3.s3_reason(ValueError(text)) == expected


@pytest.mark.timeout(60)  # a search with quadratic time would take minutes
@pytest.mark.parametrize("character", ["a", "/", "@", " ", ":"])
def test_reason_of_a_megabyte_is_masked_in_linear_time(character):
    assert "secret" not in s3.s3_reason(ValueError(f"//u:secret@{character * 1_000_000}@"))
    s3.s3_reason(ValueError(character * 1_000_000))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(StoreError("NoSuchKey: it is\u00a0not there"), "NoSuchKey: it is\u00a0not there", id="store"),
        pytest.param(FileNotFoundError(2, "none", "f"), "none: 'f'", id="system"),
        pytest.param(ValueError("at\nhttp://u:p/q@h/"), "at http://***@h/", id="password"),
        pytest.param(ContentError("s3: is larger"), "s3: is larger", id="content"),
    ],
)
def test_the_reason_is_one_line_without_a_password(error, expected):
    assert s3.s3_reason(error) == expected


@pytest.mark.parametrize("kind", [StoreError, NotThereError, ContentError])
def test_errors_can_be_pickled(kind):
    copy = pickle.loads(pickle.dumps(kind("reason")))
    assert (type(copy), str(copy)) == (kind, "reason")
