"""Import strings: what they load, and what is said of those that load nothing."""

from __future__ import annotations

import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pounce.errors import AppLoadError
from pounce.loading import load_app

MODULE = """
    import functools

    async def app(scope, receive, send): ...
    def plain(scope, receive, send): ...
    async def variadic(*args, **kwargs): ...
    async def optional(scope, receive, send, extra=None): ...
    _private = app
    text = "no application"
    nothing = None

    class Application:
        def __init__(self, name="x"): ...
        async def __call__(self, scope, receive, send): ...
    instance = Application()
    bound = instance.__call__
    partial = functools.partial(optional, extra=1)
    class Container:
        class Inner:
            app = staticmethod(app)
    container = Container()

    class PerRequest:
        def __init__(self, scope, receive, send): ...
        def __await__(self): ...
    class NeverAwaited:
        def __init__(self, a, b, c): ...

    class Meta(type):
        def __call__(cls, scope, receive, send): ...
    class Unusual(metaclass=Meta): ...

    def create(): return app
    def create_with_default(debug=False): return instance
    def create_from(settings): return app
    def create_nothing(): return None
    async def create_slowly(): return app
    def create_broken(): raise TypeError("inside the factory")
    def create_factory(): return create

    def double_callable(scope): ...
    class DoubleCallable:
        def __init__(self, scope): ...
        async def __call__(self, receive, send): ...
    def wsgi(environ, start_response): ...
    class WSGI:
        def __call__(self, environ, start_response): ...
    wsgi_instance = WSGI()
    def four(a, b, c, d): ...

    @functools.wraps(create)
    async def decorated(scope, receive, send): ...
"""

Write = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def import_state() -> Iterator[None]:
    """Modules and path as they were before."""
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of a project whose folder is the working directory."""
    monkeypatch.chdir(tmp_path)

    def write_file(path: str, source: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))

    write_file("site_of_mine.py", MODULE)
    return write_file


def message(app: str, *, factory: bool = False, app_dir: str = ".") -> str:
    with pytest.raises(AppLoadError) as caught:
        load_app(app, factory=factory, app_dir=app_dir)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "name",
    [
        *("app", "plain", "variadic", "optional", "_private", "instance", "bound", "partial"),
        *("Container.Inner.app", "container.Inner.app", "PerRequest", "Unusual", "decorated"),
    ],
)
def test_application_is_loaded(write: Write, name: str) -> None:
    loaded = load_app(f"site_of_mine:{name}")
    expected: Any = sys.modules["site_of_mine"]
    for part in name.split("."):
        expected = getattr(expected, part)
    assert loaded == expected


@pytest.mark.parametrize(
    ("app", "factory", "expected"),
    [
        ("site_of_mine:create()", False, "app"),
        ("site_of_mine:create( )", False, "app"),
        ("site_of_mine:create", True, "app"),
        ("site_of_mine:create()", True, "app"),
        ("site_of_mine:create_with_default()", False, "instance"),
        ("site_of_mine:Application()", False, None),
    ],
)
def test_factory_is_called(write: Write, app: str, factory: bool, expected: str | None) -> None:
    loaded = load_app(app, factory=factory)
    module = sys.modules["site_of_mine"]
    if expected is None:
        assert isinstance(loaded, module.Application)
    else:
        assert loaded is getattr(module, expected)


def test_modules_in_packages_are_loaded(write: Write) -> None:
    write("shop/__init__.py", "")
    write("shop/web/__init__.py", "")
    write("shop/web/asgi.py", "async def app(scope, receive, send): ...")
    assert load_app("shop.web.asgi:app").__module__ == "shop.web.asgi"


def test_app_dir_comes_first_on_the_path(write: Write, tmp_path: Path) -> None:
    write("elsewhere/site_of_mine.py", "async def app(scope, receive, send): 'other'")
    directory = str(tmp_path / "elsewhere")
    loaded = load_app("site_of_mine:app", app_dir="elsewhere")
    assert loaded.__code__.co_filename.startswith(directory)
    assert sys.path[0] == directory
    load_app("site_of_mine:app", app_dir="elsewhere")
    assert sys.path.count(directory) == 1
    os.chdir(tmp_path.parent)
    assert sys.path[0] == directory


def test_module_written_after_the_folder_was_looked_at_is_found(write: Write) -> None:
    assert "was not found" in message("newcomer:app")
    write("newcomer.py", "async def app(scope, receive, send): ...")
    load_app("newcomer:app")


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        ("site_of_mine", "names no attribute: expected module:attribute"),
        ("site_of_mine", 'such as "site_of_mine:app"'),
        ("site_of_mine:", "names no attribute"),
        ("", "names no attribute: expected module:attribute or module:factory()"),
        (":app", "names no module"),
        ("..site:app", "names no module"),
        ("site..mine:app", "names no module"),
        ("site_of_mine:app.", '"app." is no name of an attribute'),
        ("site_of_mine:app:app", '"app:app" is no name of an attribute'),
        ("site_of_mine:create(1)", '"create(1)" is no name of an attribute'),
        ("site_of_mine:create()()", '"create()()" is no name of an attribute'),
        ("site_of_mine:()", "is no name of an attribute"),
        ("site_of_mine.py:app", 'a module is named like "site_of_mine:app"'),
        ("./shop/web.py:app", 'a module is named like "shop.web:app"'),
        ("shop/web:app", 'a module is named like "shop.web:app"'),
        ("nowhere:app", 'module "nowhere" was not found (import string "nowhere:app")'),
        ("nowhere.web:app", 'module "nowhere" was not found (import string "nowhere.web:app")'),
        ("site_of_min:app", 'did you mean "site_of_mine"?'),
        (
            "site_of_mine.web:app",
            'module "site_of_mine.web" was not found (import string "site_of_mine.web:app"); '
            '"site_of_mine" is not a package',
        ),
        (
            "site_of_mine:instanc",
            'module "site_of_mine" has no attribute "instanc"; did you mean "instance"?',
        ),
        ("site_of_mine:zzz", 'module "site_of_mine" has no attribute "zzz"; it has: '),
        (
            "site_of_mine:Container.Outer",
            '"Container" of module "site_of_mine" has no attribute "Outer"',
        ),
        (
            "site_of_mine:text",
            '"site_of_mine:text" is not callable: it is of type str',
        ),
        ("site_of_mine:nothing", '"site_of_mine:nothing" is not callable: it is None'),
        ("site_of_mine:functools", "is not callable: it is a module"),
        ("site_of_mine:text()", '"site_of_mine:text" is not callable: it is of type str'),
        (
            "site_of_mine:create",
            '"site_of_mine:create" is callable without arguments; if it is a factory, '
            "write () behind it or use --factory",
        ),
        ("site_of_mine:Application", "is a class, not an application made from it"),
        ("site_of_mine:NeverAwaited", "is a class, not an application made from it"),
        (
            "site_of_mine:create_from()",
            'factory "site_of_mine:create_from" must be callable without arguments',
        ),
        ("site_of_mine:app()", "is it the application itself, not a factory?"),
        (
            "site_of_mine:create_nothing()",
            'what "site_of_mine:create_nothing()" returned is not callable: it is None',
        ),
        ("site_of_mine:create_slowly()", "is an async function; a factory must be a plain one"),
        (
            "site_of_mine:create_factory()",
            'what "site_of_mine:create_factory()" returned is callable without arguments',
        ),
        ("site_of_mine:double_callable", "is an ASGI 2 application"),
        ("site_of_mine:DoubleCallable", "is an ASGI 2 application"),
        ("site_of_mine:wsgi", "as a WSGI application does"),
        ("site_of_mine:wsgi_instance", "as a WSGI application does"),
        ("site_of_mine:four", "cannot be called with (scope, receive, send)"),
    ],
)
def test_wrong_string_is_told_which_part_is_wrong(write: Write, app: str, expected: str) -> None:
    assert expected in message(app)


def test_candidates_are_applications_before_functions(write: Write) -> None:
    write(
        "small.py",
        """
        from json import dumps
        from collections import OrderedDict
        def tidy(): ...
        class Api:
            async def __call__(self, scope, receive, send): ...
        api = Api()
        _hidden = api
        """,
    )
    assert message("small:zzz") == 'module "small" has no attribute "zzz"; it has: api, tidy'
    write("empty.py", "")
    assert message("empty:zzz") == 'module "empty" has no attribute "zzz"'


def test_nearest_module_of_a_package_is_suggested(write: Write) -> None:
    write("shop/__init__.py", "")
    write("shop/frontend.py", "")
    assert 'did you mean "shop.frontend"?' in message("shop.frontent:app")


def test_module_of_a_package_that_is_named_as_attribute_is_explained(write: Write) -> None:
    write("shop/__init__.py", "")
    write("shop/frontend.py", "async def app(scope, receive, send): ...")
    assert 'it is a module of its own: write "shop.frontend:..."' in message("shop:frontend.app")


def test_file_of_a_module_from_elsewhere_is_named(write: Write) -> None:
    text = message("json:app")
    assert f"({sys.modules['json'].__file__})" in text


def test_missing_app_dir_is_named(write: Write) -> None:
    assert message("a:b", app_dir="gone") == 'directory "gone" (app_dir) was not found'


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import not_there", ModuleNotFoundError),
        ("import not_there.at_all", ModuleNotFoundError),
        ("from json import not_there", ImportError),
        ("import site_of_mine_too", ModuleNotFoundError),
        ("raise ImportError('of its own')", ImportError),
        ("1 / 0", ZeroDivisionError),
        ("def x(:", SyntaxError),
    ],
)
def test_error_of_the_module_itself_is_not_wrapped(
    write: Write, source: str, error: type[Exception]
) -> None:
    write("broken.py", source)
    with pytest.raises(error) as caught:
        load_app("broken:app")
    assert type(caught.value) is error
    assert "broken.py" in "".join(traceback.format_exception(caught.value))


def test_missing_module_that_a_package_imports_is_not_taken_for_the_requested_one(
    write: Write,
) -> None:
    write("shop/__init__.py", "import shop_settings")
    write("shop/web.py", "")
    with pytest.raises(ModuleNotFoundError, match="No module named 'shop_settings'"):
        load_app("shop.web:app")


def test_error_inside_the_factory_is_not_wrapped(write: Write) -> None:
    with pytest.raises(TypeError, match="inside the factory"):
        load_app("site_of_mine:create_broken()")


def test_error_of_a_computed_attribute_is_not_wrapped(write: Write) -> None:
    write("lazy.py", "def __getattr__(name): raise RuntimeError(name)")
    with pytest.raises(RuntimeError, match="app"):
        load_app("lazy:app")


def test_callable_without_a_signature_is_taken(write: Write) -> None:
    write(
        "odd.py",
        """
        class Odd:
            __signature__ = "none"
            async def __call__(self, scope, receive, send): ...
        app = Odd()
        """,
    )
    assert callable(load_app("odd:app"))
