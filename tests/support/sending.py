"""Whoever sends webhooks signs them with openssl, which shares no code with what verifies."""

import base64
import subprocess
import time

STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GITHUB_SECRET = "It's a Secret to Everybody"
STRIPE_SECRET = "whsec_stripe_takes_it_as_text"


def hmac_sha256(secret: bytes, message: bytes) -> bytes:
    told = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{secret.hex()}", "-binary"],
        input=message,
        capture_output=True,
        check=True,
    )
    return told.stdout


def standard(
    body: bytes, identity: str = "msg_1", *, at: float | None = None, secret: str = STANDARD_SECRET
) -> dict[str, str]:
    stamp = str(int(time.time() if at is None else at))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = base64.b64encode(hmac_sha256(key, f"{identity}.{stamp}.".encode() + body)).decode()
    return {"webhook_id": identity, "webhook_timestamp": stamp, "webhook_signature": f"v1,{signature}"}


def github(body: bytes, identity: str = "d-1", *, secret: str = GITHUB_SECRET) -> dict[str, str]:
    signature = hmac_sha256(secret.encode(), body).hex()
    return {
        "x_github_delivery": identity,
        "x_github_event": "issues",
        "x_hub_signature_256": f"sha256={signature}",
    }


def stripe(body: bytes, *, at: float | None = None, secret: str = STRIPE_SECRET) -> dict[str, str]:
    stamp = str(int(time.time() if at is None else at))
    signature = hmac_sha256(secret.encode(), f"{stamp}.".encode() + body).hex()
    return {"stripe_signature": f"t={stamp},v1={'0' * 64},v1={signature},v0=old"}
