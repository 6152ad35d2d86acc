"""A secret is found where the operator put it, and one tenant cannot sign with another's."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from holdfast.dispatcher.secret import SecretMissingError, Secrets, Signer
from tests.support.dispatching import SECRET


def test_the_default_tenants_secret_is_in_the_environment_or_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "from-file").write_text(SECRET + "\n")
    secrets = Secrets({"HOLDFAST_SECRET_MY_TICKETS": SECRET}, tmp_path)
    for name in ("my-tickets", "my.tickets", "MY_TICKETS", "from-file"):
        assert isinstance(secrets.signer("default", name), Signer)


def test_another_tenant_has_a_folder_of_its_own_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "flat").write_text(SECRET)
    (tmp_path / "north%2Feast").mkdir()
    (tmp_path / "north%2Feast" / "own").write_text(SECRET)
    secrets = Secrets({"HOLDFAST_SECRET_SHARED": SECRET}, tmp_path)
    assert isinstance(secrets.signer("north/east", "own"), Signer)
    for tenant, name in (("north", "own"), ("north/east", "shared"), ("north/east", "flat"), ("..", "flat")):
        with pytest.raises(SecretMissingError):
            secrets.signer(tenant, name)


@pytest.mark.parametrize("name", ["", "../own", "a/b", ".hidden", "a\0b", "x" * 65])
def test_a_name_that_is_no_name_finds_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "own").write_text(SECRET)
    with pytest.raises(SecretMissingError):
        Secrets({}, tmp_path / "default").signer("default", name)


@pytest.mark.parametrize("text", ["whsec_", "whsec_!", "   ", f"{SECRET} whsec_!", f"{SECRET} " * 9])
def test_a_secret_that_cannot_sign_is_named_but_not_shown(text: str) -> None:
    with pytest.raises(SecretMissingError) as refusal:
        Secrets({"HOLDFAST_SECRET_BAD": text}).signer("default", "bad")
    assert "bad" in str(refusal.value)
    assert "!" not in str(refusal.value)


def test_while_a_secret_is_rotated_receivers_of_the_old_and_of_the_new_one_accept(tmp_path: Path) -> None:
    later = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    (tmp_path / "rotated").write_text(f"{later}\n{SECRET}\n")
    time, body = datetime.now(UTC), '{"n":1}'
    signature = Secrets({}, tmp_path).signer("default", "rotated").sign("key", time, body)
    headers = {"webhook-id": "key", "webhook-timestamp": str(int(time.timestamp()))}
    headers["webhook-signature"] = signature
    for secret in (SECRET, later):
        Webhook(secret).verify(body, headers)
    (tmp_path / "rotated").write_text(later)  # the old one is taken away: the next call has the new one alone
    assert " " not in Secrets({}, tmp_path).signer("default", "rotated").sign("key", time, body)
