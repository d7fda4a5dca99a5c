"""Files of certificates and keys, tried before the first connection: later, a wrong one looks like an outage."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from forecaster.errors import UsageError

PREFIX = "FORECASTER_KAFKA__SSL_"


def refuse_unusable_files(security: Mapping[str, str]) -> None:
    """Raise UsageError if TLS is used and one of its files cannot be; the error names the variable.

    Args:
        security: options of the Kafka client.
    """
    if not security.get("security_protocol", "").endswith("SSL"):
        return
    authorities, certificate, key = (security.get(f"ssl_{name}") for name in ("cafile", "certfile", "keyfile"))
    password = security.get("ssl_password", "")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities:
        try:
            context.load_verify_locations(authorities)
        except (OSError, ValueError):
            raise UsageError(f"{PREFIX}CAFILE={authorities}: holds no certificate in PEM format") from None
    if key and not certificate:
        raise UsageError(f"{PREFIX}CERTFILE: is required with {PREFIX}KEYFILE={key}")
    if certificate:
        try:
            context.load_cert_chain(certificate, key, lambda: password)  # without a function, OpenSSL asks the terminal
        except (OSError, ValueError) as error:
            reason = (getattr(error, "reason", None) or "wrong format").replace("_", " ").lower()
            raise UsageError(
                f"{PREFIX}CERTFILE={certificate}: certificate and key cannot be used: {reason}; "
                f"check {PREFIX}KEYFILE={key or certificate} and {PREFIX}PASSWORD"
            ) from None
