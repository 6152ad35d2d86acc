"""Finds apps by their names, `module:name`, or says in one sentence why it cannot."""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from holdfast.agent.app import App


class NoSuchApp(ValueError):  # noqa: N818 -- the sentence names what there is not
    """A name stands for no app; the text is one sentence for the person who gave it."""


def import_apps(names: Iterable[str]) -> list[App]:
    """Import apps named `module:name`, from the working directory too. Raises `NoSuchApp`.

    And whatever the modules raise: their code is executed.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return [_import_app(name) for name in names]


def _import_app(name: str) -> App:
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise NoSuchApp(f"{name!r} names no app: it must be module:name, for example agents.triage:app.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # the module is there; what it imports is not, and the traceback says where
        raise NoSuchApp(f"There is no module {module_name}, looked for from {Path.cwd()}.") from error
    app = getattr(module, attribute, None)
    if app is None:
        apps = sorted(each for each, value in vars(module).items() if isinstance(value, App))
        known = f" It has {', '.join(apps)}." if apps else ""
        raise NoSuchApp(f"The module {module_name} has no app {attribute}.{known}")
    if not isinstance(app, App):
        raise NoSuchApp(f"{name} is a {type(app).__name__}, and must be a holdfast.agent.App.")
    return app
