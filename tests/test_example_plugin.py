"""The example plugin is built, installed into a fresh environment, and gets an event; its own tests pass there."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from helpers import environments

EXAMPLE = environments.CHECKOUT / "docs" / "examples" / "build-board"


@pytest.fixture(scope="module")
def installed(programs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, directory / "source", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    own = environments.create_layer(programs, directory / "environment")
    environments.pip(own, "wheel", "--no-deps", "--wheel-dir", str(directory), str(source), **environments.BUILDING)
    (wheel,) = directory.glob("*.whl")
    environments.pip(own, "install", str(wheel), **environments.BUILDING)
    return own


@pytest.fixture
def board():
    posts = []

    class Board(BaseHTTPRequestHandler):
        def do_POST(self):
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Board) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", posts
        server.shutdown()
        thread.join()


def test_an_event_goes_through_the_installed_plugin(installed, board, monkeypatch, tmp_path):
    url, posts = board
    monkeypatch.setenv("E3_EVENT_HANDLERS", f"board={url}")
    command = [installed / "python", "-m", "event", "send", "compile", "target=arm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [(post["name"], post["target"]) for post in posts] == [("compile", "arm")]


def test_check_shows_the_plugin_and_its_distribution(installed, tmp_path):
    command = [installed / "python", "-m", "event", "check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert any("board" in line and "build-board" in line for line in done.stdout.splitlines()), done.stdout


def test_the_plugins_own_tests_pass(installed, tmp_path):
    tests = shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    command = [installed / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tests)]
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
