from __future__ import annotations

import copy
import hashlib
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import boto3
import pytest
from botocore.awsrequest import AWSResponse

from event import EventError, _files
from event._net import s3
from event._net.s3 import ContentError, NotThereError, Store, StoreError
from servers.http import Answer, http_server
from servers.raw import raw_http_server, silent_server
from servers.s3 import SECRET, s3_server
from servers.tls import Authority

URL = "s3://events/a/b"
HELLO = b"hello"
MIB = 1 << 20


@pytest.fixture(scope="module")
def running():
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running, monkeypatch):
    """An empty server with the bucket ``events``, to which the environment leads."""
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    running.reset("events")
    return running


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def directory(tmp_path):
    """An empty directory."""
    made = tmp_path / "directory"
    made.mkdir()
    return made


def sha1(content):
    return hashlib.sha1(content).hexdigest()


def download(store, directory, content=HELLO, url=URL):
    """Download what is announced to hold content; return what came."""
    path = directory / "downloaded"
    store.download(url, str(path), len(content), sha1(content))
    return path.read_bytes()


def lead_to(endpoint, monkeypatch, **more):
    settings = {"ACCESS_KEY_ID": "AKIATESTS", "SECRET_ACCESS_KEY": SECRET, "EC2_METADATA_DISABLED": "true"}
    for name, value in {**settings, "MAX_ATTEMPTS": "1", "ENDPOINT_URL": endpoint, **more}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


# There and back


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        pytest.param(0, "", id="empty"),
        pytest.param(5, "", id="small"),
        pytest.param(MIB, "", id="one-chunk"),
        pytest.param(9 * MIB, "-2", id="in-two-parts"),
    ],
)
def test_file_round_trips(server, store, tmp_path, directory, size, parts):  # noqa: PLR0913  # a table
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    store.upload(str(tmp_path / "file"), URL, "text/plain")
    assert server.get("events", "a/b")["ETag"].strip('"')[32:] == parts
    assert download(store, directory, content) == content


@pytest.mark.parametrize("size", [0, 5, 9 * MIB], ids=["empty", "small", "in-two-parts"])
def test_requested_part_of_an_open_file_is_uploaded(server, store, tmp_path, directory, size):
    """It may be written to meanwhile; what is told is what is stored."""
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(b"before" + content + b"behind")
    with open(tmp_path / "file", "rb") as file:
        file.seek(len(b"before"))
        assert store.upload_open(file, size, URL, "text/x") == (size, sha1(content))
        assert file.read() == b"behind"
    assert server.get("events", "a/b")["ContentType"] == "text/x"
    assert download(store, directory, content) == content


def test_rest_of_a_truncated_open_file_is_uploaded(server, store, tmp_path, directory):
    (tmp_path / "file").write_bytes(HELLO)
    with open(tmp_path / "file", "rb") as file:
        assert store.upload_open(file, 9 * MIB, URL, "text/x") == (len(HELLO), sha1(HELLO))
    assert download(store, directory) == HELLO


@pytest.mark.parametrize(("size", "step"), [(5, "PutObject"), (9 * MIB, "UploadPart")])
def test_open_file_is_uploaded_again_on_a_retry(server, store, tmp_path, directory, size, step):  # noqa: PLR0913
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    busy = [AWSResponse("", 503, {}, SimpleNamespace(stream=lambda: [b""]))]
    store.connect().meta.events.register(f"before-send.s3.{step}", lambda **_request: busy.pop() if busy else None)
    with open(tmp_path / "file", "rb") as file:
        assert store.upload_open(file, size, URL, "text/x") == (size, sha1(content))
    assert busy == []
    assert download(store, directory, content) == content


def test_content_round_trips(server, store, directory):
    store.put(URL, HELLO, "text/plain")
    assert download(store, directory) == HELLO


def test_put_replaces_an_existing_object(server, store, directory):
    store.put(URL, b"before", "text/plain")
    store.put(URL, HELLO, "text/plain")
    assert download(store, directory) == HELLO


def test_content_encoding_is_not_decoded(server, store, tmp_path, directory):
    content = b"\x1f\x8bno gzip, and so it would not come off"
    (tmp_path / "file").write_bytes(content)
    store.upload(str(tmp_path / "file"), URL, "text/plain", "gzip")
    assert server.get("events", "a/b")["ContentEncoding"] == "gzip"
    assert download(store, directory, content) == content


@pytest.mark.parametrize("sse", ["", "AES256"])
def test_objects_have_their_type_and_the_requested_encryption(tmp_path, monkeypatch, sse):
    (tmp_path / "file").write_bytes(HELLO)
    with http_server(200) as server:
        lead_to(server.url, monkeypatch)
        store = Store(sse=sse)
        store.put(URL, HELLO, "text/html")
        store.upload(str(tmp_path / "file"), URL, "text/plain", "gzip")
    names = ("content-type", "x-amz-server-side-encryption")
    sent = [[request.headers.get(name) for name in names] for request in server.requests]
    assert sent == [["text/html", sse or None], ["text/plain", sse or None]]
    assert "gzip" in server.requests[1].headers["content-encoding"]


@pytest.mark.parametrize(
    ("ctype", "expected"),
    [
        pytest.param("text/plain", None, id="text"),
        pytest.param("image/png", None, id="picture"),
        pytest.param("text/html", "attachment", id="page"),
        pytest.param("image/svg+xml", "attachment", id="picture-that-may-run-scripts"),
        pytest.param("application/octet-stream", "attachment", id="anything"),
    ],
)
def test_content_that_a_browser_could_run_is_a_download(server, store, tmp_path, ctype, expected):
    (tmp_path / "file").write_bytes(HELLO)
    store.upload(str(tmp_path / "file"), URL, ctype)
    assert server.get("events", "a/b").get("ContentDisposition") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("at http://u:p@h/x", "at http://***@h/x", id="one"),
        pytest.param("http://u:p/q@h, http://v:w@i", "http://***@h, http://***@i", id="two-and-a-slash"),
        pytest.param("a@b //c", "a@b //c", id="none"),
        pytest.param("//a@//b@c", "//***@c", id="several-in-a-word"),
    ],
)
def test_a_reason_has_no_password(text, expected):
    assert s3.s3_reason(ValueError(text)) == expected


@pytest.mark.timeout(60)  # with a pattern that goes back and forth, minutes
@pytest.mark.parametrize("character", ["a", "/", "@", " ", ":"])
def test_a_reason_of_a_megabyte_is_masked_in_one_pass(character):
    assert "secret" not in s3.s3_reason(ValueError(f"//u:secret@{character * 1_000_000}@"))
    s3.s3_reason(ValueError(character * 1_000_000))


def test_downloaded_file_is_readable_only_by_its_owner(server, store, directory):
    store.put(URL, HELLO, "text/plain")
    download(store, directory)
    mode = stat.S_IMODE((directory / "downloaded").stat().st_mode)
    assert mode == (0o666 if os.name == "nt" else 0o600)


# Not as announced


@pytest.mark.parametrize(
    ("size", "digest", "why"),
    [
        pytest.param(4, sha1(HELLO), "has more than 4 bytes", id="larger"),
        pytest.param(0, sha1(b""), "has more than 0 bytes", id="larger-than-nothing"),
        pytest.param(4, sha1(b"hell"), "has more than 4 bytes", id="larger-by-a-tail"),
        pytest.param(-1, sha1(HELLO), "has more than -1 bytes", id="larger-than-can-be"),
        pytest.param(6, sha1(HELLO), "has 5 bytes, not 6", id="smaller"),
        pytest.param(5, sha1(b"other"), f"has the SHA-1 {sha1(HELLO)}, not {sha1(b'other')}", id="other"),
    ],
)
def test_object_that_differs_from_its_reference_is_refused(server, store, directory, size, digest, why):  # noqa: PLR0913  # a table
    store.put(URL, HELLO, "text/plain")
    with pytest.raises(ContentError) as caught:
        store.download(URL, str(directory / "file"), size, digest)
    assert str(caught.value) == f"s3: 's3://events/a/b' {why}"
    assert list(directory.iterdir()) == []
    assert download(store, directory) == HELLO  # the connection is not spoiled


def test_a_multipart_object_that_differs_in_its_last_byte_is_refused(server, store, tmp_path, directory):
    content = bytes(9 * MIB)
    (tmp_path / "file").write_bytes(content)
    store.upload(str(tmp_path / "file"), URL, "text/plain")
    with pytest.raises(ContentError, match="has the SHA-1"):
        download(store, directory, content[:-1] + b"x")
    assert list(directory.iterdir()) == []


def test_a_body_without_an_end_does_not_fill_the_disk(store, directory, monkeypatch):
    def talk(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                connection.sendall(b"%x\r\n%s\r\n" % (MIB, bytes(MIB)))
        except OSError:
            pass  # it has heard enough

    sizes = []
    unlink = _files.unlink_quietly
    monkeypatch.setattr(_files, "unlink_quietly", lambda path: sizes.append(os.path.getsize(path)) or unlink(path))

    with raw_http_server(talk) as endpoint:
        lead_to(endpoint, monkeypatch)
        with pytest.raises(ContentError, match=f"has more than {3 * MIB} bytes"):
            store.download(URL, str(directory / "file"), 3 * MIB, sha1(HELLO))
    assert sizes == [3 * MIB]
    assert list(directory.iterdir()) == []


def test_unneeded_rest_of_a_body_is_not_read(server, store, directory, monkeypatch):
    bodies = []
    receive = s3._receive
    monkeypatch.setattr(s3, "_receive", lambda body, *others: bodies.append(body) or receive(body, *others))
    store.put(URL, bytes(9 * MIB), "text/plain")
    with pytest.raises(ContentError):
        download(store, directory)
    assert bodies[0]._raw_stream.closed


# Not there


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
        use(store, method, tmp_path / "file", directory)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param(b"", "Not Found", id="without-words"),
        pytest.param(b"<Error><Code>NoSuchAccessPoint</Code></Error>", "NoSuchAccessPoint", id="access-point"),
    ],
)
def test_status_404_for_an_object_means_missing(store, directory, monkeypatch, body, why):
    with http_server(Answer(404, {}, body)) as server:
        lead_to(server.url, monkeypatch)
        with pytest.raises(NotThereError, match=why):
            download(store, directory)


# Trouble that passes


def use(store, method, file, directory):
    """Have the store put, upload or download something."""
    if method == "put":
        store.put(URL, HELLO, "text/plain")
    elif method == "download":
        download(store, directory)
    else:
        store.upload(str(file), URL, "text/plain")


@pytest.fixture(params=["put", "upload", "download"])
def trouble(request, store, tmp_path, directory):
    """Return what tells the words of the StoreError that a method raises: one that is no NotThereError."""

    def trouble():
        (tmp_path / "file").write_bytes(HELLO)
        with pytest.raises(StoreError) as caught:
            use(store, request.param, tmp_path / "file", directory)
        assert type(caught.value) is StoreError
        assert list(directory.iterdir()) == []
        told = "".join(traceback.format_exception(caught.value))
        assert SECRET not in told
        assert "pa55" not in told
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return trouble


def test_server_that_is_down_is_an_error(trouble, monkeypatch):
    with silent_server() as endpoint:
        pass
    lead_to(endpoint, monkeypatch)
    assert trouble() == f"{endpoint.removeprefix('http://')}: connection refused"


def test_silent_server_is_an_error_at_the_timeout(trouble, monkeypatch):
    monkeypatch.setattr("event._net.s3_transport.READ_TIMEOUT", 0.2)
    with silent_server() as endpoint:
        lead_to(endpoint, monkeypatch)
        assert trouble() == f"{endpoint.removeprefix('http://')}: timed out"


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"], ids=["head", "body"])
def test_dripping_server_is_abandoned_at_the_deadline(trouble, monkeypatch, said):
    monkeypatch.setattr(s3, "_S3_TOTAL_TIMEOUT", 0.5)
    ended = threading.Event()

    def drip(connection):
        connection.sendall(said)
        with suppress(OSError):
            while not ended.wait(0.2):
                connection.sendall(b"x")

    with raw_http_server(drip) as endpoint:
        lead_to(endpoint, monkeypatch)
        try:
            assert re.search("timed out|not done within|total timeout has expired", trouble())
        finally:
            ended.set()


@pytest.mark.parametrize("method", ["put", "upload"])
def test_endless_response_is_read_up_to_a_limit(store, tmp_path, directory, monkeypatch, method):
    sent = 0

    def talk(connection):
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(OSError):
            while sent < 64 * MIB:
                connection.sendall(bytes(MIB))
                sent += MIB

    (tmp_path / "file").write_bytes(HELLO)
    with raw_http_server(talk) as endpoint:
        lead_to(endpoint, monkeypatch)
        with pytest.raises(StoreError):
            use(store, method, tmp_path / "file", directory)
    assert sent < 64 * MIB


def test_truncated_response_is_retried(store, monkeypatch):
    with raw_http_server(
        lambda c: c.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
    ) as endpoint:
        lead_to(endpoint, monkeypatch)
        with pytest.raises(StoreError, match="An HTTP Client raised an unhandled exception"):
            store.put(URL, HELLO, "text/plain")


def test_call_runs_in_the_calling_thread_if_none_can_be_started(server, store, directory, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "event s3":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)  # one of the server's

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        store.put(URL, HELLO, "text/plain")
    assert download(store, directory) == HELLO


def test_proxies_follow_the_same_rules_as_other_handlers(store, monkeypatch):
    with http_server(200) as server:
        lead_to("http://s3.test", monkeypatch)
        monkeypatch.setenv("http_proxy", server.url)
        store.put(URL, HELLO, "text/plain")
        monkeypatch.setenv("no_proxy", "127.0.0.0/8")
        store.put(URL, HELLO, "text/plain")
        lead_to(server.url, monkeypatch)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        Store().put(URL, HELLO, "text/plain")
    assert [request.headers["host"] for request in server.requests] == ["s3.test"] * 2 + [
        server.url.partition("://")[2]
    ]


@pytest.mark.parametrize("status", [403, 500, 503])
def test_refusal_by_the_server_is_an_error(trouble, monkeypatch, status):
    with http_server(status) as server:
        lead_to(server.url, monkeypatch)
        assert f"An error occurred ({status})" in trouble()
    assert len(server.requests) == 1


def test_status_404_for_something_else_is_an_error(trouble, monkeypatch):
    with http_server(Answer(404, {}, b"<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>")) as server:
        lead_to(server.url, monkeypatch)
        assert "NoSuchUpload" in trouble()


def test_credentials_that_the_server_echoes_are_not_shown(trouble, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session-token")
    body = b"<Error><Code>InvalidToken</Code><Message>a-session-token YS1zZXNzaW9uLXRva2Vu is old</Message></Error>"
    with http_server(Answer(400, {}, body)) as server:
        lead_to(server.url, monkeypatch)
        assert trouble().endswith(": *** *** is old")
    assert server.requests[0].headers["x-amz-security-token"] == "a-session-token"


def test_endless_redirection_is_an_error(trouble, monkeypatch):
    with http_server(307) as server:
        lead_to(server.url, monkeypatch)
        assert trouble() == "the server redirects every request again"
    assert 2 < len(server.requests) < 1000


@pytest.mark.parametrize("attempts", [1, 3])
def test_status_503_is_retried_a_few_times(store, directory, monkeypatch, attempts):
    with http_server(503) as server:
        lead_to(server.url, monkeypatch)
        if attempts == 3:
            monkeypatch.delenv("AWS_MAX_ATTEMPTS")  # the default
        with pytest.raises(StoreError):
            download(store, directory)
    assert len(server.requests) == attempts


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        pytest.param({"RETRY_MODE": "often"}, "Invalid value provided to", id="retry-mode"),
        pytest.param({"MAX_ATTEMPTS": "many"}, "invalid literal for int()", id="max-attempts"),
        pytest.param({"PROFILE": "none"}, "The config profile (none) could not be found", id="profile"),
        pytest.param({"ENDPOINT_URL": "localhost"}, "Invalid endpoint: ", id="endpoint"),
        pytest.param({"ACCESS_KEY_ID": ""}, "Unable to locate credentials", id="credentials"),
    ],
)
def test_invalid_setting_is_an_error(trouble, monkeypatch, settings, why):
    lead_to("http://127.0.0.1:9", monkeypatch, **settings)
    assert trouble().startswith(why)


def test_missing_credential_program_is_not_reported_as_a_missing_file(trouble, tmp_path, monkeypatch):
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {tmp_path}/none\n")
    lead_to("http://127.0.0.1:9", monkeypatch, CONFIG_FILE=str(config))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert trouble() == f"no such file or directory: '{tmp_path}/none'"


def test_the_password_of_an_endpoint_stays_secret(trouble, monkeypatch):
    with silent_server() as endpoint:
        pass
    lead_to(endpoint.replace("//", "//user:pa55/w@rd@"), monkeypatch)
    assert re.fullmatch(r"Custom endpoint `http://\*\*\*@127.0.0.1:\d+` was not a valid URI", trouble())


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n"


def hang_up(connection):
    connection.sendall(HEAD + bytes(1500000))


def corrupt_tls_record(connection):
    connection.sendall(HEAD + bytes(1500000))
    with open(connection.detach(), "wb", buffering=0) as raw:
        raw.write(b"this is no TLS" * 1000)


def test_connection_closed_within_the_body_is_an_error(store, directory, monkeypatch):
    with raw_http_server(hang_up) as endpoint:
        lead_to(endpoint, monkeypatch)
        with pytest.raises(StoreError, match=r"1500000 (bytes )?read"):
            download(store, directory, bytes(2000000))
    assert list(directory.iterdir()) == []


def test_connection_silent_within_the_body_is_an_error(store, directory, monkeypatch):
    monkeypatch.setattr("event._net.s3_transport.READ_TIMEOUT", 0.2)
    given_up = threading.Event()

    def fall_silent(connection):
        hang_up(connection)
        assert given_up.wait(60)

    with raw_http_server(fall_silent) as endpoint:
        lead_to(endpoint, monkeypatch)
        try:
            with pytest.raises(StoreError, match=r"^timed out$"):
                download(store, directory, bytes(2000000))
        finally:
            given_up.set()
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="platform: a socket is no file descriptor")
def test_tls_failure_within_the_body_is_an_error(store, tmp_path, directory, monkeypatch):
    authority = Authority(tmp_path)
    with raw_http_server(corrupt_tls_record, authority.context("127.0.0.1")) as endpoint:
        lead_to(endpoint, monkeypatch, CA_BUNDLE=authority.path)
        with pytest.raises(StoreError, match=r"^TLS: wrong version number$"):
            download(store, directory, bytes(2000000))
    assert list(directory.iterdir()) == []


def test_after_a_failure_the_next_call_succeeds(server, store, directory):
    with pytest.raises(NotThereError):
        download(store, directory)
    store.put(URL, HELLO, "text/plain")
    assert download(store, directory) == HELLO


# The files


def test_existing_file_at_the_path_is_kept(server, store, directory):
    store.put(URL, HELLO, "text/plain")
    (directory / "downloaded").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        download(store, directory)
    assert (directory / "downloaded").read_bytes() == b"mine"


@pytest.mark.skipif(os.name == "nt", reason="platform: a symbolic link needs a right")
def test_a_symbolic_link_at_the_path_is_not_followed(server, store, tmp_path, directory):
    store.put(URL, HELLO, "text/plain")
    (directory / "downloaded").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        download(store, directory)
    assert not (tmp_path / "elsewhere").exists()


def test_missing_directory_is_not_reported_as_a_missing_object(server, store, tmp_path):
    store.put(URL, HELLO, "text/plain")
    with pytest.raises(FileNotFoundError) as caught:
        download(store, tmp_path / "none")
    assert not isinstance(caught.value, StoreError)


FULL = """
import resource, signal, sys
from event._net.s3 import Store, StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store()
store.connect()
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    store.download("s3://events/a/b", sys.argv[1], 3 << 20, sys.argv[2])
except OSError as error:
    print(type(error).__name__, error.strerror)
"""


@pytest.mark.skipif(os.name == "nt", reason="platform: no limit on a file's size")
def test_a_full_disk_leaves_no_file(server, store, directory):
    content = bytes(3 * MIB)
    store.put(URL, content, "text/plain")
    assert run(FULL, directory / "file", sha1(content)) == "OSError File too large\n"
    assert list(directory.iterdir()) == []


def test_an_interruption_leaves_no_file(server, store, directory, monkeypatch):
    from botocore.response import StreamingBody

    def interrupted(*args, **kwargs):
        assert (directory / "downloaded").exists()
        signal.raise_signal(signal.SIGINT)  # it reaches the main thread, which waits
        return b""

    store.put(URL, HELLO, "text/plain")
    monkeypatch.setattr(StreamingBody, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(store, directory)
    assert list(directory.iterdir()) == []


def test_a_file_that_is_missing_is_not_uploaded(server, store, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        store.upload(str(tmp_path / "none"), URL, "text/plain")
    assert not isinstance(caught.value, StoreError)


def test_a_directory_is_not_uploaded(server, store, tmp_path):
    with pytest.raises(_files.NotRegularError):
        store.upload(str(tmp_path), URL, "text/plain")


MEMORY = """
import sys, tracemalloc
from event._net.s3 import Store
store = Store()
store.connect().list_buckets()
tracemalloc.start()
store.download("s3://events/a/b", sys.argv[1], 32 << 20, sys.argv[2])
print(tracemalloc.get_traced_memory()[1] >> 20)
"""


def test_memory_does_not_grow_with_the_object_size(server, store, directory):
    content = bytes(32 * MIB)
    store.put(URL, content, "text/plain")
    assert int(run(MEMORY, directory / "file", sha1(content))) < 8


# URLs


@pytest.mark.parametrize("url", ["", "https://b/k", "s3://", "s3://b/../k", None])
def test_each_function_refuses_an_invalid_s3_url(store, tmp_path, url):
    for act in (
        lambda: store.put(url, HELLO, "text/plain"),
        lambda: store.upload(str(tmp_path / "none"), url, "text/plain"),
        lambda: store.download(url, str(tmp_path / "file"), 5, sha1(HELLO)),
        lambda: s3.join(url, "name"),
    ):
        with pytest.raises(EventError, match=r"expected s3://BUCKET/PREFIX"):
            act()


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("s3://events", id="no-key"),
        pytest.param("s3://events//", id="empty-key"),
        pytest.param("s3://ev ents/key", id="bucket"),
        pytest.param("s3://user:pa55@events/key", id="password"),
        pytest.param(f"s3://{'b' * 256}/key", id="long-bucket"),
        pytest.param(f"s3://events/{'k' * 1025}", id="long-key"),
        pytest.param("s3://events/\ud800", id="surrogate"),
    ],
)
def test_invalid_object_name_is_a_permanent_failure(store, tmp_path, url):
    with pytest.raises(EventError, match=r"expected s3://BUCKET/KEY") as caught:
        store.download(url, str(tmp_path / "file"), 5, sha1(HELLO))
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("k", id="one"),
        pytest.param("é?#%2F:@ +", id="odd-characters"),
        pytest.param("k" * 1024, id="longest"),
    ],
)
def test_object_with_any_valid_name_round_trips(server, store, directory, key):
    store.put(f"s3://events/{key}", HELLO, "text/plain")
    assert server.keys("events") == [key]
    assert download(store, directory, url=f"s3://events/{key}") == HELLO


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        pytest.param("arn:aws:s3:eu-west-1:123456789012:accesspoint/ap", "key", id="access-point"),
        pytest.param("events", "a\nb", id="line-break"),
    ],
)
def test_valid_names_unsupported_by_moto_are_parsed(bucket, key):
    assert s3._object(f"s3://{bucket}/{key}") == (bucket, key)


@pytest.mark.parametrize(
    ("url", "segments", "expected"),
    [
        pytest.param("s3://b", ["k"], "s3://b/k", id="bucket"),
        pytest.param("s3://b//x//", ["a", "k"], "s3://b/x/a/k", id="empty-segments"),
        pytest.param("s3://b/x", [], "s3://b/x", id="nothing"),
    ],
)
def test_join_appends_names_to_a_url(url, segments, expected):
    assert s3.join(url, *segments) == expected


# Errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(StoreError("NoSuchKey: it is\u00a0not there"), "NoSuchKey: it is\u00a0not there", id="ours"),
        pytest.param(FileNotFoundError(2, "none", "f"), "none: 'f'", id="the-systems"),
        pytest.param(ValueError("at\nhttp://u:p/q@h/"), "at http://***@h/", id="masked"),
        pytest.param(ContentError("s3: is larger"), "s3: is larger", id="content"),
    ],
)
def test_the_reason_is_one_line_without_a_password(error, expected):
    assert s3.s3_reason(error) == expected


@pytest.mark.parametrize("kind", [StoreError, NotThereError, ContentError])
def test_errors_can_be_pickled(kind):
    again = pickle.loads(pickle.dumps(kind("why")))
    assert (type(again), str(again)) == (kind, "why")


# The client


def test_missing_boto3_is_an_error_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(EventError, match=r'pip install "e3-event\[s3\]"'):
        Store()


def test_profile_provides_the_credentials(server, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(f"[ci]\naws_access_key_id = AKIACI\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    Store("ci").put(URL, HELLO, "text/plain")
    for none in (None, ""):
        with pytest.raises(StoreError, match="Unable to locate credentials"):
            Store(none).put(URL, HELLO, "text/plain")


def test_one_client_is_created_on_first_use(server, directory, monkeypatch):
    sessions = []
    session = boto3.Session
    monkeypatch.setattr(boto3, "Session", lambda **options: sessions.append(1) or session(**options))
    store = Store()
    assert sessions == []
    store.put(URL, HELLO, "text/plain")
    download(store, directory)
    assert store.connect() is store.connect()
    assert sessions == [1]


@pytest.mark.parametrize("again", [lambda s: pickle.loads(pickle.dumps(s)), copy.copy, copy.deepcopy])
def test_used_store_can_be_copied_and_pickled(server, directory, again):
    used = Store(sse="AES256")
    used.put(URL, HELLO, "text/plain")
    copied = again(used)
    assert vars(copied) == {"profile": None, "sse": "AES256"}
    assert download(copied, directory) == HELLO


def test_two_threads_share_a_client(server, store, tmp_path, directory, monkeypatch):
    client = store.connect()
    monkeypatch.setattr(boto3, "Session", None)  # another client would be an error
    together = threading.Barrier(2, timeout=60)

    def there_and_back(number):
        content = bytes([number]) * MIB
        (tmp_path / str(number)).write_bytes(content)
        url = f"s3://events/{number}"
        together.wait()
        for turn in range(5):
            store.upload(str(tmp_path / str(number)), url, "text/plain")
            path = directory / f"{number}-{turn}"
            store.download(url, str(path), MIB, sha1(content))
            assert path.read_bytes() == content
        return store.connect()

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(there_and_back, range(2))) == {client}


FORK = """
import hashlib, os, sys
from event._net.s3 import Store
store = Store()
store.put("s3://events/parent", b"parent", "text/plain")
client = store.connect()

def check(name):
    store.download(f"s3://events/{name}", os.path.join(sys.argv[1], name), 6, hashlib.sha1(name.encode()).hexdigest())

if not (child := os.fork()):
    code = 1
    try:
        store.put("s3://events/childs", b"childs", "text/plain")
        check("parent")
        code = 0 if store.connect() is not client and store.connect() is store.connect() else 2
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
check("childs")
assert store.connect() is client
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
def test_forked_process_creates_its_own_client(server, directory):
    run(FORK, directory)
    assert {path.name for path in directory.iterdir()} == {"parent", "childs"}


def run(script, *arguments):
    """Run a script in a process of its own, with warnings as errors; return what it prints."""
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
