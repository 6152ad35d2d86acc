"""What a client shows of itself, and whom it trusts: files in PEM, read when the client is made."""

from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS: `ca` is whom to trust (by default what the machine trusts), `cert` and `key` are our own."""

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises `ValueError` in one sentence."""
        if (self.cert is None) != (self.key is None):
            raise ValueError("A client's certificate and its key go together.")
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca), private_key=_read(self.key), certificate_chain=_read(self.cert)
        )


def checked_token(token: str) -> str:
    """Return a token as it can be sent. Raises `ValueError`, which does not hold it."""
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("The token is malformed: it is one word of printable ASCII.")
    return token


def _read(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        read = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    if not read:
        raise ValueError(f"{path} is empty.")  # gRPC ends a process that shows an empty key
    return read
