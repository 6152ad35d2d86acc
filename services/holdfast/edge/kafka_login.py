"""What a source of Kafka says of its broker, and its secrets, as the settings of the client."""

import ssl
from tempfile import NamedTemporaryFile
from typing import Any

from aiokafka.abc import AbstractTokenProvider

from holdfast.edge.source import KafkaSource
from holdfast.kit.secret import SecretMissingError, Secrets


class _Token(AbstractTokenProvider):  # type: ignore[misc] # the library has no types
    """A token of OAuth, read anew for each connection: whoever mounts it may change it."""

    def __init__(self, name: str, secrets: Secrets) -> None:
        self._name = name
        self._secrets = secrets

    async def token(self) -> str:
        """Return it."""
        return self._secrets.text(self._name)


def login_of(source: KafkaSource, secrets: Secrets) -> dict[str, Any]:
    """Return how to connect. Raises `SecretMissingError`, also for a secret that is not of its form."""
    told: dict[str, Any] = {
        "security_protocol": f"{'SASL_' if source.sasl else ''}{'SSL' if source.tls else 'PLAINTEXT'}"
    }
    if source.tls:
        told["ssl_context"] = _tls(source, secrets)
    if source.sasl:
        told["sasl_mechanism"] = source.sasl
    if source.sasl == "OAUTHBEARER":
        secrets.text(source.credentials)
        told["sasl_oauth_token_provider"] = _Token(source.credentials, secrets)
    elif source.sasl:
        user, colon, password = secrets.text(source.credentials).partition(":")
        if not (user and colon and password):
            raise SecretMissingError(f"The secret {source.credentials!r} is not user:password.")
        told |= {"sasl_plain_username": user, "sasl_plain_password": password}
    return told


def _tls(source: KafkaSource, secrets: Secrets) -> ssl.SSLContext:
    name = source.ca
    try:
        context = ssl.create_default_context(cadata=secrets.text(source.ca) if source.ca else None)
        if name := source.certificate:
            with NamedTemporaryFile("w", encoding="ascii") as file:  # ours alone; OpenSSL reads files only
                file.write(secrets.text(source.certificate))
                file.flush()
                context.load_cert_chain(file.name)
    except (ssl.SSLError, ValueError) as error:
        raise SecretMissingError(f"The secret {name!r} is not PEM as it must be.") from error
    return context
