"""Keys seal the same to the same, open what they sealed and nothing else, and can be replaced."""

import base64
from pathlib import Path

import pytest

from holdfast.payload import AesSiv

OLD, NEW = b"o" * 64, b"n" * 32


def test_the_same_is_sealed_to_the_same_and_opened_again() -> None:
    codec = AesSiv({"a": OLD})
    kept = codec.encode(b'{"a":1}')
    assert kept == AesSiv({"a": OLD}).encode(b'{"a":1}')
    assert kept != codec.encode(b'{"a":2}')
    assert b'"a"' not in kept
    assert codec.decode(kept) == b'{"a":1}'
    assert codec.decode(codec.encode(b"")) == b""


def test_a_key_that_was_replaced_still_opens() -> None:
    before = AesSiv({"old": OLD}).encode(b"1")
    both = AesSiv({"new": NEW, "old": OLD})
    assert both.decode(before) == b"1"
    assert AesSiv({"new": NEW}).decode(both.encode(b"2")) == b"2"
    with pytest.raises(ValueError, match="with a key that is not here"):
        AesSiv({"new": NEW}).decode(before)


@pytest.mark.parametrize("at", range(20))
def test_what_was_changed_is_not_opened(at: int) -> None:
    codec = AesSiv({"a": OLD, "b": NEW})
    kept = bytearray(codec.encode(b"12"))
    assert len(kept) == 20
    kept[at] ^= 1
    with pytest.raises(ValueError, match="key"):
        codec.decode(bytes(kept))
    for rest in (b"", bytes(kept[:1]), bytes(kept[:10])):
        with pytest.raises(ValueError, match="key"):
            codec.decode(rest)


def test_the_name_of_a_key_cannot_be_exchanged_for_another_of_the_same_key() -> None:
    kept = AesSiv({"a": OLD}).encode(b"1")
    with pytest.raises(ValueError, match="does not fit"):
        AesSiv({"b": OLD}).decode(kept.replace(b"\x01a", b"\x01b"))


def test_keys_come_out_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# newest first\n\nnew {_text(NEW)}\nold {_text(OLD)}\n")
    assert AesSiv.from_file(file).encode(b"1") == AesSiv({"new": NEW}).encode(b"1")
    assert AesSiv.from_file(file).decode(AesSiv({"old": OLD}).encode(b"1")) == b"1"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("", "no key to seal"),
        ("new\n", "Line 1 of .* is no key"),
        ("a b c\n", "Line 1 of .* is no key"),
        ("# fine\nnew ?\n", "Line 2 of .* is no key"),
        (f"new {base64.b64encode(b'short').decode()}\n", "has 5 bytes"),
        (f"a {base64.b64encode(OLD).decode()}\n" * 2, "is twice"),
        (f"{'n' * 65} {base64.b64encode(OLD).decode()}\n", "1 to 64 bytes"),
    ],
)
def test_a_file_without_good_keys_is_refused_in_one_sentence(tmp_path: Path, told: str, why: str) -> None:
    file = tmp_path / "keys"
    file.write_text(told)
    with pytest.raises(ValueError, match=why) as refused:
        AesSiv.from_file(file)
    assert _text(OLD) not in str(refused.value)
    with pytest.raises(ValueError, match="cannot be read"):
        AesSiv.from_file(tmp_path / "none")


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
