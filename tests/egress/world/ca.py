"""The certificate authority of a test world."""

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

import trustme

#: How real clients are told which authorities to believe: OpenSSL and Python, requests, pip, Git, curl, Node and npm
VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)


class Named(ssl.SSLObject):
    """A server's side of a connection that remembers which name the client asked for."""

    asked: str | None = None


class CertificateAuthority:
    """Issues leaf certificates that nobody trusts who was not given `bundle`."""

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        self.bundle = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(self.bundle)

    @property
    def environment(self) -> dict[str, str]:
        """What makes real clients trust this authority."""
        return self.trusting(str(self.bundle))

    @staticmethod
    def trusting(bundle: str) -> dict[str, str]:
        """Return the same for a copy of the bundle at another path, such as one in a guest."""
        return dict.fromkeys(VARIABLES, bundle)

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.bundle))

    def server(
        self, names: Sequence[str], alpn: Sequence[str], greeted: Callable[[str | None], None]
    ) -> ssl.SSLContext:
        """Return a server's context with a certificate of `names`; `greeted` hears the SNI of every ClientHello."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        context.set_alpn_protocols(list(alpn))
        context.sslobject_class = Named

        def remember(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if isinstance(connection, Named):
                connection.asked = name
            greeted(name)

        context.sni_callback = remember
        return context
