"""The limits that both ends of every connection agree on."""

from typing import Final

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Bytes of one message, either way; a larger one is RESOURCE_EXHAUSTED."""

MAX_METADATA: Final = 16 * 1024

MESSAGE_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", MAX_METADATA),
    ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA),
)
