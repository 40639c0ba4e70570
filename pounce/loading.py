"""Import strings: from `module:attribute` to the application."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from types import FunctionType, ModuleType
from typing import Any, Final

from pounce.errors import AppLoadError

_FORM: Final = "module:attribute or module:factory()"
_CALL: Final = re.compile(r"(?P<path>[^()]*)\(\s*\)")
_MOST_NAMES: Final = 8


def load_app(app: str, *, factory: bool = False, app_dir: str = ".") -> Callable[..., Any]:
    """Import the application that an import string names.

    Args:
        app: `module:attribute`, where both may be dotted, or `module:factory()`.
        factory: Whether the attribute is a function that returns the application, as if the
            string ended in `()`.
        app_dir: Directory that goes first on `sys.path`.

    Raises:
        AppLoadError: The string is malformed, or a part of it was not found, cannot be called or
            is no ASGI 3 application; one line that says which part.
        Exception: Whatever the application's own code raises, unchanged: while its module is
            imported (its own ImportError as well) and in its factory.
    """
    module_name, attributes, called = _split(app)
    _put_first_on_path(app_dir)
    module = _import(module_name, app, app_dir)
    target: Any = module
    where = f'module "{module_name}"' + _foreign_file(module, app_dir)
    for attribute in attributes:
        target = _attribute(target, attribute, where)
        where = f'"{attribute}" of {where}'
    name = f'"{module_name}:{".".join(attributes)}"'
    if factory or called:
        target = _call_factory(target, name)
        name = f'what {name[:-1]}()" returned'
    _check_application(target, name)
    application: Callable[..., Any] = target
    return application


def _split(app: str) -> tuple[str, list[str], bool]:
    """Module, attributes and whether the last one is to be called."""
    module, colon, path = app.strip().partition(":")
    called = _CALL.fullmatch(path)
    attributes = (called["path"] if called else path).split(".")
    if module.endswith(".py") or os.sep in module:
        name = module.removesuffix(".py").strip("./").replace(os.sep, ".")
        raise AppLoadError(
            f'import string "{app}" begins with a path; a module is named like "{name}:app"'
        )
    if not colon or not path:
        example = f', such as "{module}:app"' if module and all(module.split(".")) else ""
        raise AppLoadError(f'import string "{app}" names no attribute: expected {_FORM}{example}')
    if not all(module.split(".")):
        raise AppLoadError(f'import string "{app}" names no module: expected {_FORM}')
    if not all(attribute.isidentifier() for attribute in attributes):
        raise AppLoadError(
            f'import string "{app}": "{path}" is no name of an attribute: expected {_FORM}'
        )
    return module, attributes, called is not None


def _put_first_on_path(app_dir: str) -> None:
    directory = os.path.abspath(app_dir)
    if not os.path.isdir(directory):
        raise AppLoadError(f'directory "{app_dir}" (app_dir) was not found')
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)
    # The finders remember what a directory held and notice changes only by its time stamp.
    importlib.invalidate_caches()


def _import(name: str, app: str, app_dir: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise  # the application's own import of something else
        parent_name, _, own_name = missing.rpartition(".")
        parent = sys.modules.get(parent_name)
        if parent is not None and not hasattr(parent, "__path__"):
            hint = f'; "{parent_name}" is not a package'
        else:
            path = parent.__path__ if parent is not None else [os.path.abspath(app_dir)]
            siblings = [module.name for module in pkgutil.iter_modules(list(path))]
            hint = _did_you_mean(own_name, siblings, f"{parent_name}." if parent_name else "")
        raise AppLoadError(
            f'module "{missing}" was not found (import string "{app}"){hint}'
        ) from None


def _attribute(target: Any, attribute: str, where: str) -> Any:
    try:
        return getattr(target, attribute)
    except AttributeError:
        hint = _did_you_mean(attribute, _public_names(target)) or _submodule(target, attribute)
    if not hint and (names := _candidates(target)):
        hint = f"; it has: {', '.join(names)}"
    raise AppLoadError(f'{where} has no attribute "{attribute}"{hint}')


def _call_factory(factory: Any, name: str) -> Any:
    if not callable(factory):
        raise AppLoadError(f"{name} is not callable: it is {_describe(factory)}")
    if not _takes(factory, 0):
        hint = "; is it the application itself, not a factory?" if _takes(factory, 3) else ""
        raise AppLoadError(f"factory {name} must be callable without arguments{hint}")
    made = factory()
    if inspect.iscoroutine(made):
        made.close()
        raise AppLoadError(f"factory {name} is an async function; a factory must be a plain one")
    return made


def _check_application(target: Any, name: str) -> None:
    """Refuse what is certainly not called as `await app(scope, receive, send)`.

    Whether the call gives an awaitable cannot be known: a plain function may return one.
    """
    if not callable(target):
        raise AppLoadError(f"{name} is not callable: it is {_describe(target)}")
    # A metaclass may have its instances called in a way of its own.
    if type(target) is type and _takes(target, 3) and not hasattr(target, "__await__"):
        raise AppLoadError(f"{name} is a class, not an application made from it")
    if _takes(target, 3):
        return
    if _takes(target, 0):
        hint = "a class, not an application made from it" if inspect.isclass(target) else ""
        raise AppLoadError(
            f"{name} is {hint or 'callable without arguments'}; if it is a factory, "
            "write () behind it or use --factory"
        )
    if _takes(target, 1):
        raise AppLoadError(
            f"{name} is an ASGI 2 application, which takes the scope alone; wrap it in "
            "asgiref.compatibility.guarantee_single_callable"
        )
    if _takes(target, 2):
        raise AppLoadError(
            f"{name} takes two arguments, as a WSGI application does; wrap it, for example in "
            "a2wsgi.WSGIMiddleware"
        )
    raise AppLoadError(f"{name} cannot be called with (scope, receive, send)")


def _takes(target: Any, count: int) -> bool:
    """Whether `target` can be called with so many positional arguments, as far as it tells."""
    try:
        # What a decorator wraps may have another signature than the decorator's result.
        signature = inspect.signature(target, follow_wrapped=False)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _candidates(target: Any) -> list[str]:
    """Names that may be what was meant: callables that belong here, the likeliest first."""
    objects: list[str] = []
    functions: list[str] = []
    for name in _public_names(target):
        value = getattr(target, name, None)
        if isinstance(value, (ModuleType, type)) or not callable(value):
            continue
        if not isinstance(value, FunctionType):
            objects.append(name)
        elif value.__module__ == getattr(target, "__name__", None):
            functions.append(name)
    return (objects + functions)[:_MOST_NAMES]


def _public_names(target: Any) -> list[str]:
    return [name for name in getattr(target, "__dict__", ()) if not name.startswith("_")]


def _submodule(target: Any, attribute: str) -> str:
    if isinstance(target, ModuleType) and hasattr(target, "__path__"):
        name = f"{target.__name__}.{attribute}"
        if importlib.util.find_spec(name) is not None:
            return f'; it is a module of its own: write "{name}:..."'
    return ""


def _foreign_file(module: ModuleType, app_dir: str) -> str:
    """The file of a module that does not come from the directory of the application."""
    file = getattr(module, "__file__", None)
    if not file or os.path.abspath(file).startswith(os.path.abspath(app_dir) + os.sep):
        return ""
    return f" ({file})"


def _did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f'; did you mean "{prefix}{nearest[0]}"?' if nearest else ""


def _describe(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, ModuleType):
        return "a module"
    return f"of type {type(value).__name__}"
