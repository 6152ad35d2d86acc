"""The settings of who reads payloads: runners, the edge, the console. The services have none of them."""

from dataclasses import dataclass
from pathlib import Path

from holdfast.kit.settings import SettingsError, setting
from holdfast.payload import PayloadCodec, configured_codec


@dataclass(frozen=True, kw_only=True)
class PayloadSettings:
    """What seals and opens payloads."""

    payload_codec: str = setting(
        "", help="what seals and opens payloads, as module:name; the services cannot read them then"
    )
    payload_keys_file: Path | None = setting(
        None, help="a file with keys that do: lines of a name and 32, 48 or 64 bytes in base64"
    )

    def codec(self) -> PayloadCodec | None:
        """Return what seals and opens payloads, if anything does. Raises `SettingsError`."""
        try:
            return configured_codec(self.payload_codec, self.payload_keys_file)
        except ValueError as error:
            raise SettingsError(str(error)) from error
