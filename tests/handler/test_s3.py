"""The s3 handler with moto's server, and servers that misbehave."""

from __future__ import annotations

import copy
import gzip
import json
import logging
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

import event
from event._event_copies import with_sending
from event._net import s3
from event.handler.s3 import S3Handler
from helpers.attributes import public_attributes
from helpers.s3_objects import use_endpoint
from servers.http import http_server
from servers.raw import silent_server
from servers.s3 import SECRET

PAGE = Path(__file__).parents[2] / "docs/reference/handlers/s3.md"
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture
def store(moto, monkeypatch):
    """Return the S3 server with only the empty buckets "events" and "logs". The environment has its address."""
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    moto.reset("events", "logs")
    return moto


@pytest.fixture
def no_credentials(monkeypatch):
    """Disable the metadata service of EC2. The environment of the tests has no credentials."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def handler():
    return S3Handler("s3://events/ev", "s3://logs/log")


def make_event(tmp_path, files=(), **data):
    made = event.Event("compile", **data)
    for name in files:
        path = tmp_path / "attached"
        path.write_bytes(f"content of {name!a}".encode())
        path = path.rename(tmp_path / f"attached-{len(made.get_attachments())}")
        made.attach_file(path, name)
    return made


def only_event(store):
    """Return the content of the only object in the bucket "events"."""
    (key,) = store.keys("events")
    return json.loads(store.get("events", key)["Body"])


# Stored objects


def test_documentation_shows_the_stored_objects(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build.txt").write_bytes(b"done\n")
    store.reset("builds", "logs")
    example, shown = (
        re.search(rf"```{kind}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL) for kind in ("python", "json")
    )
    made = {}
    exec(example[1], made)
    assert store.keys("logs") == ["builds/42/log"]
    assert store.get("logs", "builds/42/log")["Body"] == b"done\n"
    (key,) = store.keys("builds")
    assert re.fullmatch(rf"events/42-{UUID}\.s3", key)
    expected = json.loads(shown[1])
    times = {name: made["e"].as_dict()[name] for name in ("begin_time", "end_time")}
    expected["event"].update(times)
    assert store.get("builds", key)["Body"].decode() == json.dumps(expected)  # in the order that the page shows


def test_event_without_attachments_is_one_object(store, handler):
    assert handler.send_event(event.Event("compile"))
    assert store.keys("logs") == []
    assert only_event(store)["attachments"] == {}


def test_second_sending_has_its_own_object(store, handler):
    made = event.Event("compile")
    assert handler.send_event(made)
    assert handler.send_event(made)
    assert len(store.keys("events")) == 2


def test_retry_of_a_sending_replaces_its_objects(store, handler, tmp_path):
    made = make_event(tmp_path, files=["build.log"])
    for _ in range(3):
        assert handler.send_event(with_sending(made, "an-id"))
    assert [key.rpartition(made.uid)[2] for key in store.keys("events")] == ["-an-id.s3"]
    assert len(store.keys("logs")) == 1


def test_values_without_a_json_type_are_written_as_by_dump(store, handler, tmp_path):
    assert handler.send_event(event.Event("compile", flags={"b", "a"}, ratio=float("nan"), place=tmp_path))
    data = only_event(store)["event"]
    assert (data["flags"], data["ratio"], data["place"]) == (["a", "b"], None, str(tmp_path))


def test_circular_data_is_refused_before_uploading(store, handler, tmp_path):
    made = make_event(tmp_path, ["log"], loop=[])
    made.loop.append(made.loop)
    with pytest.raises(event.EventError, match=r"'event\.loop' contains itself"):
        handler.send_event(made)
    assert store.keys("logs") == store.keys("events") == []


@pytest.mark.parametrize(
    ("file", "name", "ctype", "encoding"),
    [
        pytest.param("report.html", "log", "text/html", None, id="by-the-path"),
        pytest.param("tmpx", "report.html", "text/html", None, id="by-the-name"),
        pytest.param("report.html", "page.pdf", "text/html", None, id="path-before-name"),
        pytest.param("build.txt.gz", "log", "text/plain", "gzip", id="compressed"),
        pytest.param("build.tar.gz", "log", "application/x-tar", "gzip", id="tar"),
        pytest.param("tmpx", "log", None, None, id="unknown"),
        pytest.param("tmpx", "data:text/html,x", None, None, id="name-that-looks-like-a-url"),
        pytest.param("tmpx", "/[x", None, None, id="name-that-looks-like-an-invalid-url"),
    ],
)
def test_objects_have_their_content_type(store, handler, tmp_path, file, name, ctype, encoding):  # noqa: PLR0913
    (tmp_path / file).write_bytes(gzip.compress(b"x"))
    made = event.Event("compile")
    made.attach_file(tmp_path / file, name)
    assert handler.send_event(made)
    stored = only_event(store)["attachments"][name]
    assert (stored["ctype"], stored["encoding"]) == (ctype, encoding)
    found = store.client.head_object(Bucket="logs", Key=stored["s3_url"].removeprefix("s3://logs/"))
    assert found["ContentType"] == (ctype or "application/octet-stream")
    assert found.get("ContentEncoding") == encoding
    assert store.get("events", store.keys("events")[0])["ContentType"] == "application/json"


@pytest.mark.parametrize("sse", ["AES256", "aws:kms"])
def test_every_object_has_the_requested_encryption(store, tmp_path, sse):
    made = make_event(tmp_path, ["log"], uid="u-1")
    assert S3Handler("s3://events", "s3://logs", sse).send_event(made)
    assert store.get("logs", "u-1/log")["ServerSideEncryption"] == sse
    assert store.get("events", store.keys("events")[0])["ServerSideEncryption"] == sse


def test_multipart_upload_has_the_encryption_and_the_content_type(store, handler, tmp_path):
    with (tmp_path / "big.html").open("wb") as file:
        file.truncate(20 << 20)
    made = event.Event("compile", uid="u-1")
    made.attach_file(tmp_path / "big.html")
    assert handler.send_event(made)
    found = store.client.head_object(Bucket="logs", Key="log/u-1/log")
    assert found["ETag"].endswith('-3"')  # uploaded in three parts
    assert (found["ContentLength"], found["ContentType"]) == (20 << 20, "text/html")
    assert found["ServerSideEncryption"] == "AES256"


@pytest.mark.parametrize("sse", ["", None])
def test_no_encryption_is_requested_without_sse(tmp_path, monkeypatch, sse):
    with http_server(200) as server:
        use_endpoint(server.url, monkeypatch)
        assert S3Handler("s3://events", "s3://logs", sse).send_event(make_event(tmp_path, ["log"]))
    assert [request.method for request in server.requests] == ["PUT", "PUT"]
    assert not any("encryption" in name for request in server.requests for name in request.headers)


def test_changed_encryption_applies_to_the_next_event(store, handler, tmp_path):
    for sse in ("AES256", "aws:kms"):
        handler.sse = sse
        assert handler.send_event(make_event(tmp_path, ["log"], uid="u-1"))
        assert store.get("logs", "log/u-1/log")["ServerSideEncryption"] == sse


# Keys


@pytest.mark.parametrize(
    ("event_url", "log_url", "prefix", "event_key", "log_key"),
    [
        pytest.param("s3://events", "s3://logs", "", "u-1-ID.s3", "u-1/log", id="only-buckets"),
        pytest.param("s3://events/", "s3://logs/", "", "u-1-ID.s3", "u-1/log", id="buckets-with-slash"),
        pytest.param("s3://events/a/b/", "s3://logs//a//b", "", "a/b/u-1-ID.s3", "a/b/u-1/log", id="empty-segments"),
        pytest.param(
            "s3://events/a:b c", "s3://logs/é?#", "", "a:b c/u-1-ID.s3", "é?#/u-1/log", id="special-characters"
        ),
        pytest.param("s3://events", "s3://logs", "pre-", "pre-u-1-ID.s3", "pre-u-1/log", id="prefix"),
        pytest.param("s3://events", "s3://logs/a", "x/y/", "x/y/u-1-ID.s3", "a/x/y/u-1/log", id="prefix-of-folders"),
        pytest.param("s3://events", "s3://logs", "/x//y/", "x/y/u-1-ID.s3", "x/y/u-1/log", id="prefix-empty-segments"),
    ],
)
def test_keys_consist_of_url_prefix_and_uid(  # noqa: PLR0913
    store, tmp_path, monkeypatch, event_url, log_url, prefix, event_key, log_key
):
    monkeypatch.setattr(S3Handler, "s3_prefix", lambda self, event: prefix)
    assert S3Handler(event_url, log_url).send_event(make_event(tmp_path, ["log"], uid="u-1"))
    assert [re.sub(UUID, "ID", key) for key in store.keys("events")] == [event_key]
    assert store.keys("logs") == [log_key]
    assert only_event(store)["attachments"]["log"]["s3_url"] == f"s3://logs/{log_key}"


def test_subclass_can_store_events_in_folders(store, tmp_path):
    class ByName(S3Handler):
        def s3_prefix(self, event):
            return f"{event.name}/"

    assert ByName("s3://events", "s3://logs").send_event(make_event(tmp_path, ["log"], uid="u-1"))
    assert store.keys("logs") == ["compile/u-1/log"]
    assert S3Handler("s3://events", "s3://logs").s3_prefix(event.Event("compile")) == ""


@pytest.mark.parametrize("bad", ["..", ".", "../../x", "a/b", "/abs", "a\\b", "a\nb", "", "é" * 200, "\ud800"])
def test_event_values_cannot_escape_the_folder(store, tmp_path, monkeypatch, bad):
    monkeypatch.setattr(S3Handler, "s3_prefix", lambda self, event: f"{bad}/")
    made = make_event(tmp_path, [bad or "log"], uid=bad)
    assert S3Handler("s3://events/ev", "s3://logs/log").send_event(made)
    for bucket, folder in (("events", "ev"), ("logs", "log")):
        (key,) = store.keys(bucket)
        first, *others = key.split("/")
        assert first == folder
        assert {"", ".", ".."}.isdisjoint(others)
        assert all(other.isprintable() and len(other.encode()) <= 255 for other in others)
    name = (bad or "log").encode("utf-8", "backslashreplace").decode()
    url = only_event(store)["attachments"][name]["s3_url"]
    assert url == f"s3://logs/{store.keys('logs')[0]}"


def test_attachments_do_not_overwrite_each_other(store, handler, tmp_path):
    names = ["log", "LOG", "a/b", "a_b", "a\\b", "..", "../.."]
    made = make_event(tmp_path, names, uid="u-1")
    assert handler.send_event(made)
    stored = only_event(store)["attachments"]
    assert list(stored) == names
    for name in names:
        key = stored[name]["s3_url"].removeprefix("s3://logs/")
        assert store.get("logs", key)["Body"] == f"content of {name!a}".encode()


# Failures


def only_warning(caplog):
    (record,) = [record for record in caplog.records if record.name == "event"]
    assert record.levelno == logging.WARNING
    assert SECRET not in caplog.text
    return record.getMessage()


def test_event_is_not_stored_if_an_attachment_cannot_be_stored(store, handler, tmp_path, caplog):
    store.client.delete_bucket(Bucket="logs")
    made = make_event(tmp_path, ["log"])
    assert handler.send_event(made) is False
    assert only_warning(caplog).startswith("s3: attachment 'log': An error occurred (NoSuchBucket)")
    assert store.keys("events") == []


def test_attachments_are_stored_before_the_event(store, handler, tmp_path, caplog):
    store.client.delete_bucket(Bucket="events")
    assert handler.send_event(make_event(tmp_path, ["log"], uid="u-1")) is False
    assert ": An error occurred (NoSuchBucket) " in only_warning(caplog)
    assert store.keys("logs") == ["log/u-1/log"]


def test_missing_credentials_are_a_failure(no_credentials, handler, caplog):
    assert handler.send_event(event.Event("compile")) is False
    assert ": Unable to locate credentials" in only_warning(caplog)


def test_refused_connection_is_a_failure(handler, monkeypatch, caplog):
    with silent_server() as endpoint:
        pass
    use_endpoint(endpoint, monkeypatch)
    assert handler.send_event(event.Event("compile")) is False
    assert f": {endpoint.removeprefix('http://')}: connection refused; " in only_warning(caplog)


def test_silent_server_does_not_block(handler, monkeypatch, caplog):
    monkeypatch.setattr("event._net.s3_transport.READ_TIMEOUT", 0.2)
    with silent_server() as endpoint:
        use_endpoint(endpoint, monkeypatch)
        assert handler.send_event(event.Event("compile")) is False
    assert f": {endpoint.removeprefix('http://')}: timed out; " in only_warning(caplog)


@pytest.mark.parametrize(
    ("settings", "attempts"),
    [
        pytest.param({}, 3, id="default"),
        pytest.param({"MAX_ATTEMPTS": "2"}, 2, id="AWS_MAX_ATTEMPTS"),
        pytest.param({"RETRY_MODE": "legacy", "MAX_ATTEMPTS": "1"}, 1, id="AWS_RETRY_MODE"),
    ],
)
def test_number_of_attempts_is_limited(handler, monkeypatch, caplog, settings, attempts):
    with http_server(500) as server:
        use_endpoint(server.url, monkeypatch, **settings)
        if "MAX_ATTEMPTS" not in settings:
            monkeypatch.delenv("AWS_MAX_ATTEMPTS")
        assert handler.send_event(event.Event("compile")) is False
    assert len(server.requests) == attempts
    assert "An error occurred (500)" in only_warning(caplog)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param({"RETRY_MODE": "often"}, "Invalid value provided to", id="retry-mode"),
        pytest.param({"MAX_ATTEMPTS": "many"}, "invalid literal for int()", id="max-attempts"),
        pytest.param({"PROFILE": "none"}, "The config profile (none) could not be found", id="profile"),
        pytest.param({"ENDPOINT_URL": "localhost"}, "Invalid endpoint: ", id="endpoint"),
    ],
)
def test_invalid_setting_is_a_failure_that_the_log_explains(handler, monkeypatch, caplog, settings, reason):
    use_endpoint("http://127.0.0.1:9", monkeypatch, **settings)
    assert handler.send_event(event.Event("compile")) is False
    assert reason in only_warning(caplog)


def test_invalid_setting_is_not_reported_as_an_attachment_failure(handler, monkeypatch, tmp_path, caplog):
    use_endpoint("http://127.0.0.1:9", monkeypatch, PROFILE="none")
    assert handler.send_event(make_event(tmp_path, ["log"])) is False
    assert ": The config profile (none) could not be found; " in only_warning(caplog)


def test_log_masks_the_password_of_an_endpoint(handler, monkeypatch, caplog):
    with silent_server() as endpoint:
        pass
    use_endpoint(endpoint.replace("//", "//user:pa55word@"), monkeypatch)
    assert handler.send_event(event.Event("compile")) is False
    message = only_warning(caplog)
    assert "pa55word" not in caplog.text
    assert f": {endpoint.removeprefix('http://')}: connection refused; " in message


def test_missing_attachment_is_a_failure(store, handler, tmp_path, caplog):
    made = make_event(tmp_path, ["first", "second"])
    os.unlink(made.get_attachments()["second"][0])
    assert handler.send_event(made) is False
    assert "s3: attachment 'second': no such file or directory: " in only_warning(caplog)
    assert store.keys("events") == []


def test_attachment_with_an_impossible_path_is_a_failure(store, handler, tmp_path, caplog):
    made = make_event(tmp_path, ["log"])
    made._attachments["log"] = ("a\0b", "")
    assert handler.send_event(made) is False
    assert "s3: attachment 'log': embedded null byte" in only_warning(caplog)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="platform: no FIFOs")
def test_attachment_replaced_by_a_fifo_is_not_read(store, handler, tmp_path, caplog):
    made = make_event(tmp_path, ["log"])
    path = made.get_attachments()["log"][0]
    os.unlink(path)
    os.mkfifo(path)
    assert handler.send_event(made) is False
    assert "not a regular file" in only_warning(caplog)
    assert store.keys("events") == []


def test_event_after_a_failed_one_is_delivered(store, handler, caplog):
    store.client.delete_bucket(Bucket="events")
    assert handler.send_event(event.Event("compile")) is False
    store.client.create_bucket(Bucket="events")
    assert handler.send_event(event.Event("compile")) is True


# The client


def test_one_client_serves_all_sends(store, handler, monkeypatch):
    sessions = []
    session = boto3.Session
    monkeypatch.setattr(boto3, "Session", lambda **options: sessions.append(1) or session(**options))
    for _ in range(2):
        assert handler.send_event(event.Event("compile"))
    assert sessions == [1]


@pytest.mark.parametrize("copy_of", [lambda h: pickle.loads(pickle.dumps(h)), copy.copy, copy.deepcopy])
def test_used_handler_can_be_copied_and_pickled(store, handler, copy_of):
    handler.send_event(event.Event("compile"))
    copied = copy_of(handler)
    assert copied.encode_config() == handler.encode_config()
    assert copied.send_event(event.Event("compile"))


def test_threads_share_a_handler(store, handler, tmp_path):
    events = [make_event(tmp_path, ["log"]) for _ in range(24)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(handler.send_event, events))
    assert {key.split("/")[1] for key in store.keys("logs")} == {made.uid for made in events}
    assert len(store.keys("events")) == 24


FORK = """
import os, event
from event.handler.s3 import S3Handler
handler = S3Handler("s3://events", "s3://logs")
assert handler.send_event(event.Event("compile", uid="before"))
if not (child := os.fork()):
    os._exit(0 if handler.send_event(event.Event("compile", uid="child")) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert handler.send_event(event.Event("compile", uid="after"))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
def test_parent_and_child_send_after_a_fork(store):
    run(FORK)
    assert {key.split("-")[0] for key in store.keys("events")} == {"before", "child", "after"}


AT_EXIT = """
import atexit, event
event.add_handler("s3", "s3://events", "s3://logs")
made = event.Event("compile")
made.attach_file({path!r})
atexit.register(lambda: print(event.send_event(made)))
"""


def test_event_is_delivered_at_interpreter_exit(store, tmp_path):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(9 << 20)
    assert run(AT_EXIT.format(path=str(tmp_path / "big"))) == "True\n"
    assert len(store.keys("events")) == 1


MEMORY = """
import sys, tracemalloc, event
from event.handler.s3 import S3Handler
handler = S3Handler("s3://events", "s3://logs")
made = event.Event("compile")
made.attach_file({path!r})
handler.send_event(event.Event("first"))  # imports the libraries before the measurement
tracemalloc.start()
assert handler.send_event(made)
print(tracemalloc.get_traced_memory()[1] >> 20)
"""


def test_memory_does_not_grow_with_the_attachment_size(store, tmp_path):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(128 << 20)
    assert int(run(MEMORY.format(path=str(tmp_path / "big")))) < 40


def run(script):
    """Run a script in a new process, with warnings as errors; return its output."""
    # A thread of a finished upload may still be running.
    warnings = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *warnings, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


# Configuration


def test_missing_boto3_is_an_error_with_the_extra():
    script = """
import sys, event
sys.modules["boto3"] = None
try:
    event.add_handler("s3", "s3://events", "s3://logs")
except event.EventError as error:
    print(error)
print(event.default_manager.handlers)
"""
    assert 'pip install "e3-event[s3]"' in (out := run(script))
    assert out.endswith("{}\n")


def test_importing_the_module_does_not_import_boto3():
    out = run("import sys, event.handler.s3; print([m for m in sys.modules if m.startswith('boto')])")
    assert out == "[]\n"


def test_attributes_are_those_of_e3():
    assert public_attributes(S3Handler("s3://e", "s3://l")) == {
        "event_s3_url": "s3://e",
        "log_s3_url": "s3://l",
        "sse": "AES256",
        "aws_profile": None,
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param("s3://e/x,s3://l/y,AES256,", ["s3://e/x", "s3://l/y", "AES256", None], id="defaults"),
        pytest.param("s3://e,s3://l,,", ["s3://e", "s3://l", "", None], id="no-sse"),
        pytest.param("s3://e,s3://l,aws:kms,ci", ["s3://e", "s3://l", "aws:kms", "ci"], id="profile"),
        pytest.param("s3://e,s3://l,AES256,p,q", ["s3://e", "s3://l", "AES256", "p,q"], id="comma-in-profile"),
    ],
)
def test_configuration_of_e3_round_trips(config, expected):
    handler = S3Handler(**S3Handler.decode_config(config))
    assert [handler.event_s3_url, handler.log_s3_url, handler.sse, handler.aws_profile] == expected
    assert handler.encode_config() == config


@pytest.mark.parametrize("config", ["s3://e,s3://l", "s3://e,s3://l,AES256", "s3://e,s3://l,AES256,"])
def test_sse_and_profile_are_optional(config):
    handler = S3Handler(**S3Handler.decode_config(config))
    assert (handler.sse, handler.aws_profile) == ("AES256", None)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("s3://e/a,b", "s3://l/c|d", "AES256", "p,q|r"), id="separators"),
        pytest.param(("s3://e/%2C", "s3://l/%7c%", "50%", "%25"), id="escapes"),
        pytest.param(("s3://e/a=b", "s3://l/é ", None, None), id="none"),
        pytest.param(("s3://e", "s3://l", "", ""), id="empty"),
    ],
)
def test_handler_round_trips_through_the_environment(arguments):
    event.add_handler("s3", *arguments)
    event.handler_config_as_env()
    manager = event.EventManager()
    manager.load_handlers_from_env()
    assert public_attributes(manager.handlers["s3"]) == public_attributes(event.default_manager.handlers["s3"])


@pytest.mark.parametrize("config", ["", "s3://e", "s3://e;s3://l"])
def test_too_few_values_are_an_error_with_what_is_expected(config):
    with pytest.raises(event.EventError, match="no log URL; expected s3=EVENT_URL,LOG_URL,SSE,PROFILE"):
        S3Handler.decode_config(config)


@pytest.mark.parametrize(
    "url",
    ["", "bucket/prefix", "s3://", "s3:///key", "S3://bucket", "https://b/k", "s3://b/a/../c", "s3://b/.", None, 3],
)
def test_url_of_another_scheme_is_an_error_with_what_is_expected(url):
    for urls in ((url, "s3://l"), ("s3://e", url)):
        with pytest.raises(event.EventError, match=r"expected s3://BUCKET/PREFIX") as caught:
            S3Handler(*urls)
        assert f"the URL is {url!r};" in str(caught.value)


def test_error_masks_the_password_of_a_url():
    with pytest.raises(event.EventError) as caught:
        S3Handler("https://AKIA:pa55/word@store/bucket", "s3://l")
    assert "word" not in str(caught.value)
    assert "'https://***@store/bucket'" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/ap", ("accesspoint/ap", "")),
        ("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/ap/a/b", ("accesspoint/ap", "a/b")),
        ("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:ap/a", ("accesspoint:ap", "a")),
        ("s3://arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-1/accesspoint/ap/a", ("accesspoint/ap", "a")),
    ],
)
def test_access_point_can_replace_a_bucket(url, expected):
    bucket, key = s3.location(url)
    assert bucket.startswith("arn:aws:s3")
    assert bucket.endswith(expected[0])
    assert key == expected[1]
    assert url == f"s3://{bucket}/{key}".rstrip("/")


def test_environment_variable_sets_the_endpoint(store, monkeypatch, tmp_path):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "s3=s3://events/ev,s3://logs/log,AES256,")
    event.load_handlers_from_env()
    assert event.send_event(make_event(tmp_path, ["log"], uid="u-1"))
    assert store.keys("logs") == ["log/u-1/log"]


def test_profile_provides_the_credentials(store, monkeypatch, tmp_path, caplog):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[ci]\naws_access_key_id = AKIACI\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    assert S3Handler("s3://events", "s3://logs", profile="ci").send_event(event.Event("compile"))
    assert not S3Handler("s3://events", "s3://logs").send_event(event.Event("compile"))
    assert "Unable to locate credentials" in only_warning(caplog)
