"""A capability says which lease its bearer holds, and cannot be made, changed or kept by anybody else."""

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kit.auth.capability import Capabilities, Capability, keys_of
from holdfast.kit.errors import CapabilityRefused
from holdfast.kit.settings import SettingsError

KEY = b"k" * 32
RUN = uuid.uuid4()
MINE = Capability("acme", RUN, 3)


@given(st.text(min_size=1, max_size=50), st.uuids(), st.integers(1, 2**62))
def test_what_was_issued_verifies_as_what_it_was(tenant: str, run_id: uuid.UUID, epoch: int) -> None:
    try:
        tenant.encode()
    except UnicodeEncodeError:
        return
    capability = Capability(tenant, run_id, epoch)
    made = Capabilities([KEY])
    assert made.verify(made.issue(capability)) == capability


ISSUED = Capabilities([KEY]).issue(MINE)  # once: it says when, and what is drawn must not depend on that


@given(st.data())
def test_no_byte_of_it_can_be_changed(data: st.DataObject) -> None:
    made = Capabilities([KEY])
    text = ISSUED
    at = data.draw(st.integers(0, len(text) - 2))  # the last character may have bits that mean nothing
    other = data.draw(st.sampled_from([c for c in "ABCxyz019-_ .é" if c != text[at]]))
    with pytest.raises(CapabilityRefused):
        made.verify(text[:at] + other + text[at + 1 :])


@pytest.mark.parametrize("text", ["", "A", "é", "A" * 40, "A" * 4000, "....", "AAAA\n"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(CapabilityRefused):
        Capabilities([KEY]).verify(text)


def test_it_is_of_one_lease_only() -> None:
    made = Capabilities([KEY])
    text = made.issue(MINE)
    made.demand(text, RUN, 3)
    for run_id, epoch in ((RUN, 2), (RUN, 4), (uuid.uuid4(), 3)):
        with pytest.raises(CapabilityRefused):
            made.demand(text, run_id, epoch)


def test_it_ends() -> None:
    over = Capabilities([KEY], life=-1)
    with pytest.raises(CapabilityRefused, match="over"):
        over.verify(over.issue(MINE))


def test_keys_are_changed_without_a_gap() -> None:
    old, both, new = Capabilities([KEY]), Capabilities([b"n" * 32, KEY]), Capabilities([b"n" * 32])
    assert both.verify(old.issue(MINE)) == MINE
    assert new.verify(both.issue(MINE)) == MINE
    with pytest.raises(CapabilityRefused):
        new.verify(old.issue(MINE))


def test_a_key_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("n" * 32 + "\n\n" + "k" * 32 + "\n")
    assert keys_of("", file) == [b"n" * 32, b"k" * 32]
    with pytest.raises(SettingsError):
        keys_of("short", None)
    with pytest.raises(SettingsError):
        keys_of("", tmp_path / "none")
