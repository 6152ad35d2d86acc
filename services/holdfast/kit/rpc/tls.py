"""TLS by files that change: who connects next is shown what they hold then."""

from pathlib import Path
from typing import Any, Final

import grpc

from holdfast.kit.auth.tls import Stamp, Tls
from holdfast.kit.settings import SettingsError
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("tls")


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Return what a server shows and asks for, read anew when the files change.

    Raises `SettingsError` if they cannot be read now; later what was read last is used.
    """
    known = {"stamp": checked_stamp(tls)}

    def fetch() -> Any:
        """Return the new certificate, None if it is the one known. Called at each handshake."""
        try:
            stamp = tls.stamp()
            if stamp == known["stamp"]:
                return None
            fresh = _configuration(tls)
        except OSError as error:
            _log.warning("the certificate cannot be read", error=type(error).__name__)
            return None
        known["stamp"] = stamp
        _log.info("the certificate is read anew")
        return fresh

    return grpc.dynamic_ssl_server_credentials(
        _configuration(tls), fetch, require_client_authentication=tls.client_ca is not None
    )


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials | None:
    """Return what a channel shows and trusts, as the files are now; None without TLS.

    Raises `SettingsError`.
    """
    if not tls.calls:
        return None
    checked_stamp(tls)
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca), private_key=_read(tls.key), certificate_chain=_read(tls.cert)
    )


def checked_stamp(tls: Tls) -> Stamp:
    """Return what changes with the files. Raises `SettingsError` if one cannot be read."""
    try:
        return tls.stamp()
    except OSError as error:
        raise SettingsError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _configuration(tls: Tls) -> Any:
    key, cert = _read(tls.key), _read(tls.cert)
    assert key is not None  # as the settings have seen to
    assert cert is not None
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=_read(tls.client_ca))


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
