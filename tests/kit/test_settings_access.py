"""Settings of identity that cannot work are refused in one sentence."""

import pytest

from holdfast.kit.auth.settings import AccessSettings
from holdfast.kit.settings import SettingsError, load

JWT = {"HOLDFAST_AUTH": "jwt", "HOLDFAST_JWT_ISSUER": "https://id.test", "HOLDFAST_JWT_AUDIENCE": "holdfast"}


@pytest.mark.parametrize(
    "told",
    [
        {"HOLDFAST_AUTH": "none,token"},
        {"HOLDFAST_AUTH": ","},
        {"HOLDFAST_AUTH": "basic"},
        {"HOLDFAST_AUTH": "jwt"},
        JWT | {"HOLDFAST_JWT_AUDIENCE": ""},
        JWT | {"HOLDFAST_JWT_ISSUER": "http://id.test"},
        JWT | {"HOLDFAST_JWT_ISSUER": "no url"},
        JWT | {"HOLDFAST_JWT_ALGORITHMS": "RS256,HS256"},
        JWT | {"HOLDFAST_JWT_ALGORITHMS": "none"},
        {"HOLDFAST_MAX_CALLS": "-1"},
        {"HOLDFAST_MAX_CALLS_BY_METHOD": "Converse=5"},
        {"HOLDFAST_MAX_CALLS_BY_METHOD": "InvokerService.Converse=many"},
        {"HOLDFAST_MAX_CALLS_BY_METHOD": "InvokerService.Discuss=5"},
    ],
)
def test_what_cannot_work_is_refused(told: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(AccessSettings, told)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_what_works_is_taken() -> None:
    assert not load(AccessSettings, {}).identity
    assert load(AccessSettings, {"HOLDFAST_AUTH": "token"}).identity
    bounds = load(AccessSettings, {"HOLDFAST_MAX_CALLS_BY_METHOD": "InvokerService.Converse=5"}).bounds
    assert bounds.by_method == {"/holdfast.v1.InvokerService/Converse": 5}
    assert load(AccessSettings, JWT | {"HOLDFAST_AUTH": "token,jwt"}).auth == ("token", "jwt")
