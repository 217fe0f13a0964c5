"""The signature of a webhook, as Standard Webhooks 1.0 defines it."""

from __future__ import annotations

import base64
import binascii
import hmac
import time

from event.error import EventError

_SIZES = range(24, 65)  # bytes of a key


def sign(secret: str, sending: str, body: bytes) -> dict[str, str]:
    """Return the headers of a signed webhook.

    :param secret: ``whsec_`` and the key in base64; empty for no signature. Several secrets are separated by spaces,
        and each adds a signature
    :param sending: the id of the sending, the same at each attempt
    :raises EventError: the secret is malformed; the message does not contain it
    """
    stamp = str(int(time.time()))
    headers = {"webhook-id": sending, "webhook-timestamp": stamp}
    content = b".".join([sending.encode(), stamp.encode(), body])
    signatures = [base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys(secret)]
    if signatures:
        headers["webhook-signature"] = " ".join(f"v1,{signature}" for signature in signatures)
    return headers


def keys(secret: str) -> list[bytes]:
    """Return the keys that a secret contains.

    :raises EventError: the secret is malformed; the message does not contain it
    """
    found = []
    for part in secret.split():
        text = part.removeprefix("whsec_")
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) not in _SIZES:
            raise EventError(
                "http: the signing secret is malformed; expected whsec_ and 24 to 64 bytes in base64 "
                "(Standard Webhooks), or a reference to it: env:NAME or file:PATH"
            )
        found.append(key)
    return found
