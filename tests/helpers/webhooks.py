"""Secrets and received requests for the tests of the http handler."""

from __future__ import annotations

import base64
import json

from cloudevents.core.bindings.http import HTTPMessage, from_http_event

SECRET = "whsec_" + base64.b64encode(b"the key of the tests, 32 bytes..").decode()

OTHER_SECRET = "whsec_" + base64.b64encode(b"another key of the tests").decode()

TOKEN = "t0ken-0f-the-tests"


def only_json_body(server):
    (request,) = server.requests
    return json.loads(request.body)


def parse_cloudevent(request):
    """Parse the CloudEvent in a request with the SDK of CloudEvents."""
    return from_http_event(HTTPMessage(headers=request.headers, body=request.body))
