"""Secrets are removed from texts and event data."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re

import pytest

from event._redact import is_secret_name, redact_data, redact_text, without_secrets


@pytest.fixture(autouse=True)
def no_secrets_of_the_machine(monkeypatch):
    for name in [*filter(is_secret_name, os.environ)]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "configs", "shown"),
    [
        pytest.param("no hunter2", {"acme": "hunter2"}, "no ***", id="the configuration"),
        pytest.param(
            "token abcd1234", {"acme": "https://h/T00/abcd1234?x=1"}, "token ***", id="a part of the configuration"
        ),
        pytest.param("a,b|c", {"acme": "a%2Cb%7Cc"}, "***", id="decoded"),
        pytest.param(r"it is 'a\\b\\c'", {"acme": r"a\b\c"}, "it is '***'", id="as a repr shows it"),
        pytest.param("no abc", {"acme": "abc"}, "no abc", id="too short to be a secret"),
        pytest.param("no events", {"file": "events"}, "no events", id="a built-in handler's directory"),
        pytest.param("amqp://u:s3cret@h", {}, "amqp://u:***@h", id="a URL's password"),
        pytest.param("amqp://u:p@s3cret@h", {}, "amqp://u:***@h", id="a URL's password with an at sign"),
        pytest.param("no p@s3cret", {"acme": "https://u:p%40s3cret@h"}, "no p@***", id="a URL's password, decoded"),
        pytest.param("no such file", {"acme": "file"}, "no such file", id="a word"),
        pytest.param("no such file", {"acme": "file,no,such"}, "no such file", id="words"),
        pytest.param("no abcdefgh", {"acme": "abcdefgh"}, "no ***", id="a long word"),
        pytest.param("no Words, no w0rds", {"acme": "Words,w0rds"}, "no ***, no ***", id="no words"),
        pytest.param("no horse", {"acme": "https://u:horse@h"}, "no ***", id="a word as a URL's password"),
        pytest.param("no horse", {"acme": "board,token=horse"}, "no ***", id="a word as a token"),
        pytest.param("acme: no board1", {"acme": "acme,board1"}, "acme: no ***", id="the handler's name"),
        pytest.param("x" * 30_000, {}, "x" * 16_000, id="very long"),
        pytest.param("x" * 19_998 + "s3kret", {"acme": "s3kret"}, "x" * 16_000, id="a secret that is cut"),
    ],
)
def test_secrets_are_replaced_in_a_text(text, configs, shown):
    assert without_secrets(text, configs) == shown


def test_error_of_a_plugin_shows_no_secret_of_the_environment(monkeypatch):
    monkeypatch.setenv("BOARD_TOKEN", "hush-hush-hush")
    assert without_secrets("401 for https://h/?t=hush-hush-hush", {"acme": "cfg"}) == "401 for https://h/?t=***"


@pytest.mark.parametrize("letter", ["a", "/", "@", " ", ":", "://", "://a:"])
def test_megabyte_of_any_text_is_redacted_quickly(letter):
    without_secrets(letter * (1_000_000 // len(letter)), {"acme": "hunter2"})


# Event data.


@pytest.mark.parametrize(
    "name",
    [
        *("GITHUB_TOKEN", "PGPASSWORD", "MYSQL_PWD", "AWS_SECRET_ACCESS_KEY", "npm_config_token", "APIKEY", "SSHPASS"),
        *("VAULT_CREDENTIALS", "key", "Deploy-Key", "app.secret", "PASSPHRASE", "AZURE_PAT", "HTTP_AUTH"),
        *(
            "AUTHORIZATION",
            "PROXY_AUTHORIZATION",
            "SENTRYDSN",
            "DBPASS",
            "FTP_PASS",
            "PW",
            "DB_PW",
            "SLACK_HOOK",
            "SAS",
        ),
        *("AZURE_STORAGE_CONNECTION_STRING", "REDIS_CONNSTR", "ConnectionStrings__Main", "DB_CONN_STR", "SAS_URL"),
        *("NPM_TOKEN2", "SESSION_COOKIE", "DB_CREDS", "SLACK_WEBHOOK", "SLACK_WEBHOOK_URL", "SENTRY_DSN", "DB_PASSWD"),
    ],
)
def test_name_indicates_a_secret(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "KEYBOARD", "TOKENIZERS_PARALLELISM", "PWD", "SSH_AUTH_SOCK", "SSH_KEY_PATH"),
        *("DB_PASSWORD_FILE", "DEPLOY_PUBLIC_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "COMPASS", "E3_EVENT_HANDLERS"),
        *("BYPASS", "ENCOMPASS", "SSL_BYPASS", "SAS_HOME", "GIT_HOOKS", "CONNECTION", "STRING", "SPAWN"),
        *("AUTH_TYPE", "SESSION_COOKIE_DOMAIN", "WEBHOOK_PORT", "SECRET_NAME", "MD5", "SHA256"),
    ],
)
def test_name_indicates_no_secret(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        pytest.param(
            "hunter2hunter2", "with hunter2hunter2, twice hunter2hunter2", "with ***, twice ***", id="literally"
        ),
        pytest.param("a b/c+d=ef", "GET /?token=a%20b%2Fc%2Bd%3Def", "GET /?token=***", id="in a URL"),
        pytest.param(
            "it's\ta secret", r"value is 'it\'s\ta secret'", r"value is '***'", id="in a repr with both quotes"
        ),
        pytest.param("tab\tseparated", r"value is 'tab\tseparated'", "value is '***'", id="in a repr"),
        pytest.param("first line of it\nsecond line of it", "only second line of it", "only ***", id="a line"),
        pytest.param("  padded-secret\n", "padded-secret", "***", id="without white space"),
        pytest.param("staging", "on staging", "on staging", id="too short"),
    ],
)
def test_the_value_of_a_secret_variable_is_replaced(monkeypatch, value, text, shown):
    monkeypatch.setenv("ACME_TOKEN", value)
    assert redact_text(text) == shown


PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----"
# Split, so that no secret scanner reports them.
TOKENS = [
    "gh" + "p_" + "a" * 36,
    "github" + "_pat_" + "1" * 22 + "_" + "a" * 59,
    "gl" + "pat-" + "x" * 20,
    "gl" + "rt-t1_" + "x" * 20,
    "xo" + "xb-123456789012-abcdefABCDEF",
    "xo" + "xe.xo" + "xp-1-Mi0yLTEyMzQ1",
    "xa" + "pp-1-A0123456789-abcdef",
    "AK" + "IA" + "A" * 16,
    "AS" + "IA" + "B" * 16,
]


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_of_a_well_known_service_is_replaced(token):
    assert redact_text(f"curl -H 'X: {token}' https://x.test") == "curl -H 'X: ***' https://x.test"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param(
            "https://hooks.slack.com/services/T0/B0/XXX", "https://hooks.slack.com/services/***", id="webhook"
        ),
        pytest.param("git clone https://u:p@h.test/x", "git clone https://u:***@h.test/x", id="a URL's password"),
        pytest.param("mail a@b.test", "mail a@b.test", id="an address"),
        pytest.param("glibc-2.36.9000-57-gabcdef0123", "glibc-2.36.9000-57-gabcdef0123", id="a version"),
        pytest.param("AK" + "IA" + "A" * 17, "AK" + "IA" + "A" * 17, id="too long for AWS"),
        pytest.param(
            f"a {PEM} b",
            "a -----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY----- b",
            id="a private key",
        ),
        pytest.param(PEM[:-35], "-----BEGIN RSA PRIVATE KEY-----***", id="a private key without its end"),
        pytest.param(PEM[5:], "***-----END RSA PRIVATE KEY-----", id="a private key without its beginning"),
        pytest.param(CERTIFICATE, CERTIFICATE, id="a certificate"),
        pytest.param("-----BEGIN no more", "-----BEGIN no more", id="no block"),
        pytest.param("x -----END CERTIFICATE-----", "x -----END CERTIFICATE-----", id="the end of a certificate"),
    ],
)
def test_only_texts_with_a_secret_are_changed(text, shown):
    assert redact_text(text) == shown


def test_a_reference_adds_a_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPLOY_PIN", "4711")
    (tmp_path / "code").write_text("open sesame\n")
    references = ["env:DEPLOY_PIN", f"file:{tmp_path / 'code'}", "Zwiebel", "env:NOT_SET"]
    assert redact_text("4711, open sesame, Zwiebel", references) == "***, ***, ***"
    assert redact_text("4711, open sesame, Zwiebel") == "4711, open sesame, Zwiebel"


class Opaque:
    def __repr__(self):
        return "Opaque with hunter2hunter2"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param("hunter2hunter2", "***", id="a text"),
        pytest.param(["x", ("hunter2hunter2", 1)], ["x", ["***", 1]], id="lists"),
        pytest.param({"hunter2hunter2": {"a": "hunter2hunter2"}}, {"***": {"a": "***"}}, id="objects"),
        pytest.param(ValueError("no hunter2hunter2"), "ValueError: no ***", id="an exception"),
        pytest.param(pathlib.PurePosixPath("/x/hunter2hunter2"), "/x/***", id="a path"),
        pytest.param(Opaque(), "Opaque with ***", id="any object"),
    ],
)
def test_event_data_holds_no_secret(monkeypatch, value, shown):
    monkeypatch.setenv("ACME_PASSWORD", "hunter2hunter2")
    assert redact_data({"uid": "hunter2hunter2", "a": 1, "b": value}) == {"uid": "hunter2hunter2", "a": 1, "b": shown}


def test_event_keys_hold_no_secret_and_stay_distinct(monkeypatch):
    monkeypatch.setenv("ACME_PASSWORD", "hunter2hunter2")
    data = {
        "***-2": 0,
        "hunter2hunter2": 1,
        "token hunter2hunter2": 2,
        " hunter2hunter2": 3,
        "a": {("hunter2hunter2", 1): 4},
    }
    monkeypatch.setenv("OTHER_PASSWORD", "correct horse")
    shown = {"***-2": 0, "***": 1, "token ***": 2, " ***": 3, "a": {"['***', 1]": 4}}
    assert redact_data(data) == shown
    assert list(redact_data({"correct horse": 1, "hunter2hunter2": 2, "***-2": 3})) == ["***", "***-3", "***-2"]


def documented_keys():
    """Return the keys in the tables of the pages that describe an event's data."""
    docs = pathlib.Path(__file__).parent.parent / "docs"
    pages = [(docs / page).read_text("utf-8") for page in ("howto/run.md", "reference/formats.md")]
    tables = "".join(page.partition("| key | value |")[2].partition("\n\n")[0] for page in pages)
    rows = [row.split("|")[1] for row in tables.splitlines() if row.startswith("| `")]
    return {"uid", "name", "begin_time", "end_time", *re.findall("`([a-z_]+)`", " ".join(rows))}


def test_keys_that_this_package_writes_are_unchanged():
    keys = documented_keys()
    assert keys > {"duration", "exit_code", "traceparent", "actor"}
    data = {"uid": "u", **dict.fromkeys(sorted(keys - {"uid"}), 1)}
    data["ci"] = {"build_url": 1, "pull_request": 2}
    data["error"] = {"type": 1, "message": 2}
    assert redact_data(data, [*keys, "time", "type", "message", "build_url", "pull_request"]) == data


def test_variable_with_the_name_of_a_key_is_no_secret(monkeypatch):
    for number, key in enumerate(documented_keys()):
        monkeypatch.setenv(f"SORT{number}_KEY", key)
    monkeypatch.setenv("ACME_KEY", "duration2")
    assert redact_text("sorted by duration, exit_code and duration2") == "sorted by duration, exit_code and ***"


@pytest.mark.parametrize("before", ["", "u:", "token:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_secret_is_found_in_base64(monkeypatch, before, encode):
    secret = "s3kret\x7f\xbf>?~O333"
    monkeypatch.setenv("MY_TOKEN", secret)
    for after in ("", ":", "::"):
        encoded = encode(f"{before}{secret}{after}".encode()).decode()
        shown = redact_text(f"Authorization: Basic {encoded} end")
        assert shown.startswith(
            f"Authorization: Basic {encode(before.encode()).decode()[: len(before) * 4 // 3]}***"[:22]
        )
        assert shown.endswith(" end")
        assert encoded[5:12] not in shown


def test_new_and_changed_secrets_of_the_environment_are_found(monkeypatch):
    for name, value in [("A_TOKEN", "hunter2hunter2"), ("A_TOKEN", "hunter3hunter3"), ("B_TOKEN", "hunter4hunter4")]:
        monkeypatch.setenv(name, value)
        assert redact_text(f"a {value}") == "a ***"
    monkeypatch.delenv("A_TOKEN")
    assert redact_text("hunter3hunter3 hunter4hunter4") == "hunter3hunter3 ***"


def test_data_without_a_secret_is_the_same_object(monkeypatch):
    monkeypatch.setenv("ACME_PASSWORD", "hunter2hunter2")
    data = {"uid": "u", "a": [1, None, True, ("x",)], "b": {"c": 1.5}, "d": Opaque, "e": {1, 2}}
    assert redact_data(data) is data


def nested(inner, depth):
    for _ in range(depth):
        inner = [inner]
    return inner


def test_deep_data_holds_no_secret(monkeypatch):
    monkeypatch.setenv("ACME_PASSWORD", "hunter2hunter2")
    assert "hunter2" not in str(redact_data({"a": nested("hunter2hunter2", 600)}))
    deep = {"a": nested("nothing", 600)}
    assert redact_data(deep) is deep


def test_circular_data_is_unchanged():
    loop = {}
    loop["a"], loop["b"] = loop, loop
    data = {"loop": loop, "set": Loop()}
    assert redact_data(data) is data


class Loop:
    """Value whose JSON form contains itself."""

    __dataclass_fields__ = ("me",)

    @property
    def me(self):
        return self


@pytest.mark.parametrize(
    "letters",
    [*"a/@ :-_", "://", "://a:", "ghp_", "glpat-", "xoxb-", "AKIA", "hooks.slack.com/services/", "-----BEGIN ", PEM],
)
def test_a_megabyte_of_any_text_is_redacted_in_linear_time(letters):
    redact_text(letters * (1_000_000 // len(letters)))


def test_secret_is_found_in_its_json_encoding(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", 'ab"cd\\ef"ghij')
    assert redact_text(json.dumps({"key": 'ab"cd\\ef"ghij'})) == '{"key": "***"}'


def test_each_line_of_a_secret_is_a_secret(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "line1aaaaaaa\nline2bbbbbbb")
    assert redact_text("the end: line2bbbbbbb") == "the end: ***"
