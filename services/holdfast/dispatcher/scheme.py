"""By which of the operator's rules a destination's URL goes, whatever its scheme."""

from typing import Final

_AS: Final = {"grpcs": "https", "grpc": "http", "natss": "https", "nats": "http"}
"""With TLS, and without."""


def checked_as(url: str) -> str:
    """Return the URL by which the operator's rules judge this one."""
    scheme, mark, rest = url.partition("://")
    return _AS.get(scheme, scheme) + mark + rest
