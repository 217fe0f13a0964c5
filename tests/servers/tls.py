"""A private certificate authority for servers with TLS."""

from __future__ import annotations

import ssl

import trustme


class Authority:
    """A certificate authority.

    :ivar path: the file with its certificate
    """

    def __init__(self, directory):
        self.authority = trustme.CA()
        self.path = str(directory / "authority.pem")
        self.authority.cert_pem.write_to_path(self.path)

    def context(self, *names):
        """Return the SSLContext of a server that has a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names).configure_cert(context)
        return context
