"""Published test vectors verify, and nothing near them does."""

import pytest

from holdfast.edge.fault import NotGenuine
from holdfast.edge.verify import VERIFIERS
from holdfast.kit.secret import SecretMissingError
from tests.support.sending import stripe

# The example of GitHub's "Validating webhook deliveries".
GITHUB = {"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}
GITHUB_SECRET = "It's a Secret to Everybody"
# The one of the Standard Webhooks libraries.
STANDARD = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
THEN = 1614265330.0


def test_githubs_published_example_verifies() -> None:
    VERIFIERS["github"](GITHUB, b"Hello, World!", [GITHUB_SECRET], 0, 300)


def test_the_published_example_of_standard_webhooks_verifies() -> None:
    VERIFIERS["standard-webhooks"](STANDARD, STANDARD_BODY, [STANDARD_SECRET], THEN, 300)


def test_one_of_several_secrets_and_of_several_signatures_is_enough() -> None:
    several = STANDARD | {"webhook-signature": f"v1,AAAA v1a,xyz {STANDARD['webhook-signature']} v2,b"}
    other = "whsec_" + "A" * 32
    VERIFIERS["standard-webhooks"](several, STANDARD_BODY, [other, STANDARD_SECRET], THEN, 300)
    VERIFIERS["github"](GITHUB, b"Hello, World!", ["other", GITHUB_SECRET], 0, 300)


@pytest.mark.parametrize("seconds", [-301, 301])
def test_what_was_signed_at_another_time_is_refused(seconds: int) -> None:
    with pytest.raises(NotGenuine, match="more than 300 s"):
        VERIFIERS["standard-webhooks"](STANDARD, STANDARD_BODY, [STANDARD_SECRET], THEN + seconds, 300)
    headers = {k.replace("_", "-"): v for k, v in stripe(b"{}", at=THEN).items()}
    VERIFIERS["stripe"](headers, b"{}", ["whsec_stripe_takes_it_as_text"], THEN, 300)
    with pytest.raises(NotGenuine, match="more than 300 s"):
        VERIFIERS["stripe"](headers, b"{}", ["whsec_stripe_takes_it_as_text"], THEN + seconds, 300)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": "msg_other"},
        {"webhook-timestamp": "1614265331"},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": "-1614265330"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": STANDARD["webhook-signature"].replace("v1,", "v2,")},
        {"webhook-signature": "v1,grüß"},
        {"webhook-signature": ""},
        {"webhook-id": ""},
    ],
)
def test_whatever_is_changed_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(NotGenuine):
        VERIFIERS["standard-webhooks"](STANDARD | changed, STANDARD_BODY, [STANDARD_SECRET], THEN, 300)


def test_a_changed_body_is_refused_by_every_kind() -> None:
    with pytest.raises(NotGenuine):
        VERIFIERS["github"](GITHUB, b"Hello, World?", [GITHUB_SECRET], 0, 300)
    with pytest.raises(NotGenuine):
        VERIFIERS["standard-webhooks"](STANDARD, STANDARD_BODY + b" ", [STANDARD_SECRET], THEN, 300)
    headers = {k.replace("_", "-"): v for k, v in stripe(b"{}", at=THEN).items()}
    with pytest.raises(NotGenuine):
        VERIFIERS["stripe"](headers, b"[]", ["whsec_stripe_takes_it_as_text"], THEN, 300)


def test_signatures_without_end_are_not_compared_without_end() -> None:
    many = STANDARD | {"webhook-signature": "v1,AAAA " * 100 + STANDARD["webhook-signature"]}
    with pytest.raises(NotGenuine):
        VERIFIERS["standard-webhooks"](many, STANDARD_BODY, [STANDARD_SECRET], THEN, 300)


def test_a_secret_that_is_none_is_the_operators_to_mend() -> None:
    with pytest.raises(SecretMissingError, match="not base64"):
        VERIFIERS["standard-webhooks"](STANDARD, STANDARD_BODY, ["whsec_?"], THEN, 300)
