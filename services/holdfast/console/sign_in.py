"""Signing in and out. Without identity a person says who they are, on loopback, and the page says so."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from holdfast.console.guard import form_of
from holdfast.console.page import page
from holdfast.console.session import Session, anonymous

_LONGEST = 200


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


async def show(request: Request) -> Response:
    """Show the form."""
    return page(request, "sign_in.html", wrong="", given={"tenant": "default", "user": "", "groups": ""})


async def enter(request: Request) -> Response:
    """Begin a session; its token against forged forms is a new one."""
    form = form_of(request)
    given = {name: str(form.get(name, "")).strip() for name in ("tenant", "user", "groups")}
    wrong = ""
    if not given["tenant"] or not given["user"]:
        wrong = "Say for which tenant and as whom you act."
    elif any(len(text) > _LONGEST or not text.isprintable() or not text.isascii() for text in given.values()):
        wrong = "Names are printable ASCII, at most 200 characters."
    if wrong:
        return page(request, "sign_in.html", status=400, wrong=wrong, given=given)
    session = Session(
        csrf=anonymous().csrf, tenant=given["tenant"], user=given["user"], groups=_names(given["groups"])
    )
    request.state.session = session
    return RedirectResponse("/runs", 303)


async def leave(request: Request) -> Response:
    """End the session."""
    request.state.session = anonymous()
    return RedirectResponse("/sign-in", 303)
