"""The S3 client: upload, download and check objects."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import boto3
import pytest
from botocore.awsrequest import AWSResponse

from event import EventError, _files
from event._net import s3
from event._net.s3 import NotThereError, Store, StoreError
from helpers.s3_objects import HELLO, MIB, URL, download, sha1, use_endpoint
from servers.http import http_server
from servers.s3 import SECRET

# Upload and download


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        pytest.param(0, "", id="empty"),
        pytest.param(5, "", id="small"),
        pytest.param(MIB, "", id="one-chunk"),
        pytest.param(9 * MIB, "-2", id="in-two-parts"),
    ],
)
def test_file_round_trips(server, store, tmp_path, directory, size, parts):  # noqa: PLR0913  # parametrized
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    store.upload(str(tmp_path / "file"), URL, "text/plain")
    assert server.get("events", "a/b")["ETag"].strip('"')[32:] == parts
    assert download(store, directory, content) == content


@pytest.mark.parametrize("size", [0, 5, 9 * MIB], ids=["empty", "small", "in-two-parts"])
def test_requested_part_of_an_open_file_is_uploaded(server, store, tmp_path, directory, size):
    """The returned size and SHA-1 are those of the uploaded part."""
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(b"before" + content + b"after")
    with open(tmp_path / "file", "rb") as file:
        file.seek(len(b"before"))
        assert store.upload_open(file, size, URL, "text/x") == (size, sha1(content))
        assert file.read() == b"after"
    assert server.get("events", "a/b")["ContentType"] == "text/x"
    assert download(store, directory, content) == content


def test_open_file_that_is_shorter_than_announced_is_uploaded(server, store, tmp_path, directory):
    (tmp_path / "file").write_bytes(HELLO)
    with open(tmp_path / "file", "rb") as file:
        assert store.upload_open(file, 9 * MIB, URL, "text/x") == (len(HELLO), sha1(HELLO))
    assert download(store, directory) == HELLO


@pytest.mark.parametrize(("size", "step"), [(5, "PutObject"), (9 * MIB, "UploadPart")])
def test_open_file_is_uploaded_again_on_a_retry(server, store, tmp_path, directory, size, step):  # noqa: PLR0913  # parametrized
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
    content = b"\x1f\x8b this is not gzip, so decoding it would fail"
    (tmp_path / "file").write_bytes(content)
    store.upload(str(tmp_path / "file"), URL, "text/plain", "gzip")
    assert server.get("events", "a/b")["ContentEncoding"] == "gzip"
    assert download(store, directory, content) == content


@pytest.mark.parametrize("sse", ["", "AES256"])
def test_objects_have_their_type_and_the_requested_encryption(tmp_path, monkeypatch, sse):
    (tmp_path / "file").write_bytes(HELLO)
    with http_server(200) as server:
        use_endpoint(server.url, monkeypatch)
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
        pytest.param("image/png", None, id="PNG picture"),
        pytest.param("text/html", "attachment", id="HTML page"),
        pytest.param("image/svg+xml", "attachment", id="SVG picture"),
        pytest.param("application/octet-stream", "attachment", id="unknown type"),
    ],
)
def test_browser_downloads_content_that_could_contain_scripts(server, store, tmp_path, ctype, expected):
    (tmp_path / "file").write_bytes(HELLO)
    store.upload(str(tmp_path / "file"), URL, ctype)
    assert server.get("events", "a/b").get("ContentDisposition") == expected


def test_proxies_follow_the_same_rules_as_other_handlers(store, monkeypatch):
    with http_server(200) as server:
        use_endpoint("http://s3.test", monkeypatch)
        monkeypatch.setenv("http_proxy", server.url)
        store.put(URL, HELLO, "text/plain")
        monkeypatch.setenv("no_proxy", "127.0.0.0/8")
        store.put(URL, HELLO, "text/plain")
        use_endpoint(server.url, monkeypatch)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        Store().put(URL, HELLO, "text/plain")
    assert [request.headers["host"] for request in server.requests] == ["s3.test"] * 2 + [
        server.url.partition("://")[2]
    ]


# Local files


def test_downloaded_file_is_readable_only_by_its_owner(server, store, directory):
    store.put(URL, HELLO, "text/plain")
    download(store, directory)
    mode = stat.S_IMODE((directory / "downloaded").stat().st_mode)
    assert mode == (0o666 if os.name == "nt" else 0o600)


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
def test_download_to_a_full_disk_leaves_no_file(server, store, directory):
    content = bytes(3 * MIB)
    store.put(URL, content, "text/plain")
    assert run(FULL, directory / "file", sha1(content)) == "OSError File too large\n"
    assert list(directory.iterdir()) == []


def test_interrupted_download_leaves_no_file(server, store, directory, monkeypatch):
    from botocore.response import StreamingBody

    def interrupted(*args, **kwargs):
        assert (directory / "downloaded").exists()
        signal.raise_signal(signal.SIGINT)  # Python handles it in the main thread, which waits
        return b""

    store.put(URL, HELLO, "text/plain")
    monkeypatch.setattr(StreamingBody, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(store, directory)
    assert list(directory.iterdir()) == []


def test_upload_of_a_missing_file_is_an_error(store, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        store.upload(str(tmp_path / "none"), URL, "text/plain")
    assert not isinstance(caught.value, StoreError)


def test_upload_of_a_directory_is_an_error(store, tmp_path):
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
    for call in (
        lambda: store.put(url, HELLO, "text/plain"),
        lambda: store.upload(str(tmp_path / "none"), url, "text/plain"),
        lambda: store.download(url, str(tmp_path / "file"), 5, sha1(HELLO)),
        lambda: s3.join(url, "name"),
    ):
        with pytest.raises(EventError, match=r"expected s3://BUCKET/PREFIX"):
            call()


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
        pytest.param("é?#%2F:@ +", id="special-characters"),
        pytest.param("k" * 1024, id="longest"),
    ],
)
def test_object_with_any_valid_name_round_trips(server, store, directory, key):
    store.put(f"s3://events/{key}", HELLO, "text/plain")
    assert server.keys("events") == [key]
    assert download(store, directory, url=f"s3://events/{key}") == HELLO


@pytest.mark.parametrize(
    ("url", "host"),
    [
        pytest.param(
            "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/ap/key", "ap-123456789012.s3.test", id="access-point"
        ),
        pytest.param("s3://events/a\nb", "s3.test", id="line-break"),
    ],
)
def test_valid_name_that_moto_does_not_support_is_requested(store, directory, monkeypatch, url, host):
    with http_server(404) as proxy:
        use_endpoint("http://s3.test", monkeypatch, DEFAULT_REGION="eu-west-1")
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(NotThereError):
            download(store, directory, url=url)
    assert [request.headers["host"] for request in proxy.requests] == [host]


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
    for no_profile in (None, ""):
        with pytest.raises(StoreError, match="Unable to locate credentials"):
            Store(no_profile).put(URL, HELLO, "text/plain")


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


@pytest.mark.parametrize("copy_of", [lambda s: pickle.loads(pickle.dumps(s)), copy.copy, copy.deepcopy])
def test_used_store_can_be_copied_and_pickled(server, directory, copy_of):
    used = Store(sse="AES256")
    used.put(URL, HELLO, "text/plain")
    copied = copy_of(used)
    assert vars(copied) == {"profile": None, "sse": "AES256"}
    assert download(copied, directory) == HELLO


def test_two_threads_share_a_client(server, store, tmp_path, directory, monkeypatch):
    client = store.connect()
    monkeypatch.setattr(boto3, "Session", None)  # another client would be an error
    together = threading.Barrier(2, timeout=60)

    def upload_and_download(number):
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
        assert set(pool.map(upload_and_download, range(2))) == {client}


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


def test_call_runs_in_the_calling_thread_if_none_can_be_started(server, store, directory, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "event s3":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)  # a thread of the server

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        store.put(URL, HELLO, "text/plain")
    assert download(store, directory) == HELLO


def run(script, *arguments):
    """Run a script in another process, with warnings as errors; return its output."""
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
