"""Signing in at an organisation's OpenID provider: authorization code with PKCE, state and nonce.

What comes of it is a token that the services verify, as they do any; nothing else of the provider's is kept.
"""

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote_plus, urlsplit

import httpx
import jwt
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749.parameters import (
    parse_authorization_code_response,
    prepare_grant_uri,
    prepare_token_request,
)
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from holdfast.console.settings import ConsoleSettings
from holdfast.kit.auth.key_source import SourceError, configuration_of, is_safe

_PATIENCE_S: Final = 10.0
_CONFIGURATION_LIFE_S: Final = 300.0
_LEEWAY_S: Final = 60.0


class ProviderError(Exception):
    """Signing in at the provider has failed; says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a browser keeps while somebody signs in elsewhere: whoever comes back must bring it."""

    state: str
    nonce: str
    verifier: str


class OpenId:
    """One provider, as its configuration describes it, which is read anew after some minutes."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._issuer = settings.console_oidc_issuer
        self._client_id = settings.console_oidc_client_id
        self._client_secret = settings.oidc_secret()
        self._scope = settings.console_oidc_scope
        self._credential = settings.console_oidc_credential
        self._configuration: dict[str, Any] = {}
        self._read_at = 0.0

    async def begin(self, back: str) -> tuple[str, Attempt]:
        """Return where the browser is to go, and what it keeps meanwhile. Raises `ProviderError`."""
        endpoint = await self._endpoint("authorization_endpoint")
        attempt = Attempt(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48))
        url = prepare_grant_uri(
            endpoint,
            self._client_id,
            "code",
            redirect_uri=back,
            scope=self._scope,
            state=attempt.state,
            nonce=attempt.nonce,
            code_challenge=create_s256_code_challenge(attempt.verifier),
            code_challenge_method="S256",
        )
        return str(url), attempt

    async def finish(self, attempt: Attempt, answer: str, back: str) -> str:
        """Return the credential that the provider's answer, the URL it sent the browser to, is good for.

        Raises `ProviderError`.
        """
        told = await self._token(self._code(attempt, answer), attempt, back)
        self._check(str(told.get("id_token") or ""), attempt)
        credential = str(told.get(self._credential) or "")
        if not credential:
            raise ProviderError(f"The provider has given no {self._credential}.")
        return credential

    def _code(self, attempt: Attempt, answer: str) -> str:
        said = dict(parse_qsl(urlsplit(answer).query))
        if said.get("iss", self._issuer) != self._issuer:  # RFC 9207
            raise ProviderError("The answer is another provider's: begin again.")
        if "error" in said:
            raise ProviderError(
                f"The provider has refused: {said.get('error_description') or said['error']}."
            )
        try:
            return str(parse_authorization_code_response(answer, attempt.state)["code"])
        except OAuth2Error as error:
            raise ProviderError("The answer is of another sign-in: begin again.") from error

    async def _token(self, code: str, attempt: Attempt, back: str) -> dict[str, Any]:
        endpoint = await self._endpoint("token_endpoint")
        more = {} if self._client_secret else {"client_id": self._client_id}
        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=back, code_verifier=attempt.verifier, **more
        )
        # RFC 6749, 2.3.1: both are form-encoded before they are put together.
        auth = httpx.BasicAuth(quote_plus(self._client_id), quote_plus(self._client_secret))
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        try:
            async with httpx.AsyncClient(timeout=_PATIENCE_S, follow_redirects=False) as http:
                asked = http.build_request("POST", endpoint, content=body, headers=headers)
                answer = await http.send(asked, auth=auth if self._client_secret else None)
            told: Any = json.loads(answer.content)
        except (httpx.HTTPError, ValueError) as error:
            raise ProviderError("The provider does not answer as it must: try again.") from error
        if not isinstance(told, dict) or answer.status_code != httpx.codes.OK:
            why = told.get("error", "") if isinstance(told, dict) else ""
            raise ProviderError(f"The provider has not taken its own code: {why or answer.status_code}.")
        return told

    def _check(self, id_token: str, attempt: Attempt) -> None:
        """Raise `ProviderError` unless the ID token is for this console and this attempt.

        It came from the token endpoint itself, over TLS, which stands in for its signature (OpenID Connect
        Core 1.0, 3.1.3.7, 6). The services verify the signature of what they are given.
        """
        try:
            jwt.decode(
                id_token,
                options={
                    "verify_signature": False,
                    "verify_exp": True,
                    "verify_aud": True,
                    "verify_iss": True,
                    "require": ["iss", "aud", "exp", "nonce"],
                },
                audience=self._client_id,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
            )
            claims = jwt.decode(id_token, options={"verify_signature": False})
        except jwt.InvalidTokenError as error:
            raise ProviderError("The provider's ID token is not for this console.") from error
        if not secrets.compare_digest(str(claims["nonce"]).encode(), attempt.nonce.encode()):
            raise ProviderError("The provider's ID token is of another sign-in: begin again.")

    async def _endpoint(self, name: str) -> str:
        if time.monotonic() - self._read_at > _CONFIGURATION_LIFE_S or not self._configuration:
            self._configuration = await self._read()
            self._read_at = time.monotonic()
        endpoint = str(self._configuration.get(name) or "")
        if not is_safe(endpoint):
            raise ProviderError(f"The provider names no {name} that is reached over HTTPS.")
        return endpoint

    async def _read(self) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=_PATIENCE_S, follow_redirects=False) as http:
                return await configuration_of(http, self._issuer)
        except SourceError as error:
            raise ProviderError(f"The provider's configuration cannot be used: {error}.") from error
        except (httpx.HTTPError, ValueError) as error:
            raise ProviderError("The provider does not answer: try again in a while.") from error
