"""Makes a typed async function a tool: its schema for the model, the model's arguments checked against it."""

import inspect
import re
from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import GenerateJsonSchema

from holdfast.agent.model_value import ToolSpec

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what OpenAI's protocol allows
FILLED_BY_THE_RUNTIME = "idempotency_key"

ToolFunction = Callable[..., Coroutine[Any, Any, Any]]


class _WithoutFieldTitles(GenerateJsonSchema):
    """Leaves out titles made from field names: they say nothing new and cost tokens in every call."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 -- pydantic's signature
        return False


def tool_spec(fn: ToolFunction) -> ToolSpec:
    """Return what a model needs to call this async function: name, docstring, schema of its parameters.

    The parameter `idempotency_key` is the runtime's to fill and stays out. Descriptions of parameters come
    from `Annotated[…, pydantic.Field(description=…)]`. Raises TypeError, naming the function, when it is not
    async, has a name no model may use, or a parameter that is not typed or cannot be passed by name.
    """
    plain = inspect.unwrap(fn)
    name = getattr(plain, "__name__", "")
    if not TOOL_NAME.fullmatch(name):
        raise TypeError(f"A tool's name has up to 64 ASCII letters, digits, _ and -; {name!r} does not fit.")
    if not inspect.iscoroutinefunction(plain):
        raise TypeError(f"The tool {name} must be an async function.")
    schema = _arguments_model(plain).model_json_schema(by_alias=True, schema_generator=_WithoutFieldTitles)
    del schema["title"]
    return ToolSpec(name, inspect.getdoc(plain) or "", schema)


def tool_arguments(fn: ToolFunction, arguments: str) -> dict[str, Any]:
    """Return the arguments a model wrote, checked and converted to the types of the function's parameters.

    Empty text stands for no arguments, as some models write it. Raises pydantic.ValidationError (a
    ValueError), whose text names each wrong field and is fit to be given back to the model.
    """
    model = _arguments_model(inspect.unwrap(fn))
    checked = model.model_validate_json(arguments or "{}")
    fields = type(checked).model_fields
    return {str(fields[field].alias): getattr(checked, field) for field in checked.model_fields_set}


def _arguments_model(fn: ToolFunction) -> type[BaseModel]:
    name = getattr(fn, "__name__", "tool")
    hints = get_type_hints(fn, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.name == FILLED_BY_THE_RUNTIME:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(
                f"The tool {name} cannot take {parameter}: a model passes each argument by its name."
            )
        if parameter.name not in hints:
            raise TypeError(f"The parameter {parameter.name} of the tool {name} needs a type.")
        default = ... if parameter.default is parameter.empty else parameter.default
        # Named by place, shown by alias: a parameter may have a name that pydantic keeps for itself.
        fields[f"field_{len(fields)}"] = (hints[parameter.name], Field(default=default, alias=parameter.name))
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
