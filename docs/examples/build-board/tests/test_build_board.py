"""Test the handler with a real HTTP server on this machine."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from build_board import BoardHandler

from event import Event, EventError, EventManager
from event.testing import check_handler


@pytest.fixture
def board():
    """Yield a board's address and the events that it received."""
    posts = []

    class Board(BaseHTTPRequestHandler):
        def do_POST(self):
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if posts[-1]["name"] == "refused" else 200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Board) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/events", posts
        server.shutdown()
        thread.join()


def test_handler_from_the_environment_posts_the_event(board, monkeypatch):
    url, posts = board
    monkeypatch.setenv("E3_EVENT_HANDLERS", f"board={url},5")
    manager = EventManager()
    manager.load_handlers_from_env()
    assert manager.handlers["board"].timeout == 5
    assert manager.send_event(Event("compile", target="arm")) is True
    assert posts[0]["target"] == "arm"


def test_refused_event_is_not_delivered(board):
    manager = EventManager()
    manager.add_handler("board", board[0])
    assert manager.send_event(Event("refused")) is False


def test_configuration_passes_check_handler():
    check_handler(BoardHandler, "https://board.example.com/events,2.5")


@pytest.mark.parametrize("config", ["", "ftp://board.example.com", "https://board.example.com,soon"])
def test_bad_configuration_raises_event_error(config):
    with pytest.raises(EventError, match="expected"):
        BoardHandler(**BoardHandler.decode_config(config))
