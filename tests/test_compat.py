"""The door to Airflow's names; `make matrix` runs this file on every supported version."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from airflow_provider_segmind import compat
from airflow_provider_segmind.execution.asset_events import describe_outlets
from airflow_provider_segmind.result_storage import ResultDestination
from tests.support.httpx2 import installed_httpx2

AIRFLOW = Version(version("apache-airflow")).release
NAMES = sorted(compat._MODULES)
SINCE = {
    "NEVER_EXPIRE": (3, 3),
    "TaskStateStoreModel": (3, 3),
    **dict.fromkeys(("ConnectionDetails", "DagAccessEntity", "DagDetails", "VariableDetails"), (3,)),
    **dict.fromkeys(("get_auth_manager", "get_user", "requires_access_dag"), (3,)),
}
IN_OPTIONAL_PROVIDERS = {
    **dict.fromkeys(("OperatorLineage", "SQLParser"), "airflow.providers.openlineage"),
    "PydanticAIHook": "airflow.providers.common.ai",
}


@pytest.mark.parametrize("name", [*NAMES, "SET_DURING_EXECUTION"])
def test_every_name_is_in_the_installed_airflow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", installed_httpx2())
    if name in IN_OPTIONAL_PROVIDERS:
        pytest.importorskip(IN_OPTIONAL_PROVIDERS[name])
    if SINCE.get(name, ()) > AIRFLOW:
        with pytest.raises(ImportError, match=name):
            getattr(compat, name)
    else:
        assert getattr(compat, name) is not None


def test_a_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compat.BaseOperator
    monkeypatch.setattr(compat, "_resolve", None)

    assert compat.BaseOperator is first


def test_type_checkers_know_the_same_names() -> None:
    (block,) = [each for each in ast.parse(Path(compat.__file__).read_text()).body if isinstance(each, ast.If)]
    typed = {name.asname or name.name for line in block.body if isinstance(line, ast.ImportFrom) for name in line.names}

    assert typed == {*NAMES, "SET_DURING_EXECUTION"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'BaseOperater'"):
        compat.BaseOperater  # noqa: B018


def test_a_name_missing_in_airflow_is_an_import_error_that_lists_the_modules() -> None:
    with pytest.raises(ImportError, match=r"'Gone'; tried airflow\.no_such_module, airflow\.exceptions"):
        compat._resolve("Gone", ("airflow.no_such_module", "airflow.exceptions"))


def test_a_module_that_lacks_a_dependency_raises_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_an_airflow.py").write_text("import a_driver_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModuleNotFoundError, match="a_driver_that_is_missing"):
        compat._resolve("BaseHook", ("half_an_airflow", "airflow.hooks.base"))


def test_the_marker_of_a_decorated_argument_shows_no_address() -> None:
    mark: Any = compat.SET_DURING_EXECUTION

    assert mark.serialize() == "DYNAMIC (set during execution)"
    if AIRFLOW < (3,):
        assert str(mark) == "DYNAMIC (set during execution)"


def test_the_version_is_a_release() -> None:
    assert compat.airflow_version() == AIRFLOW


class Connected:
    """What a hook reads; ``extra_dejson`` notes the thread."""

    conn_id = "a"
    thread: threading.Thread | None = None

    @property
    def extra_dejson(self) -> dict[str, Any]:
        self.thread = threading.current_thread()
        return {"model": "m"}


class ConnectedAsync(Connected):
    async def aextra_dejson(self) -> dict[str, Any]:
        return {"model": "async"}


def test_an_extra_is_decoded_off_the_loop_where_airflow_blocks_on_masking() -> None:
    connection: Any = Connected()

    assert asyncio.run(compat.get_async_extra_dejson(connection)) == {"model": "m"}
    assert connection.thread is not threading.main_thread()


def test_an_extra_is_awaited_where_airflow_offers_it() -> None:
    connection: Any = ConnectedAsync()

    assert asyncio.run(compat.get_async_extra_dejson(connection)) == {"model": "async"}
    assert connection.thread is None


def hook_of(base: Any, **methods: Any) -> Any:
    return type("Hook", (base,), methods)()


@pytest.fixture(params=["without", "blocking", "awaitable"])
def airflow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``BaseHook`` as in 2.11 and 3.0, as in 3.1 to 3.3.1, and as from 3.3.2."""

    class Base:
        @classmethod
        def get_connection(cls, conn_id: str) -> str:
            assert threading.current_thread() is not threading.main_thread()
            return f"in a thread: {conn_id}"

    if request.param != "without":

        async def aget_connection(cls: Any, conn_id: str) -> str:
            return f"awaited: {conn_id}"

        Base.aget_connection = classmethod(aget_connection)  # type: ignore[attr-defined]
    found = {"BaseHook": Base, "Connection": ConnectedAsync if request.param == "awaitable" else Connected}
    monkeypatch.setattr(compat, "_resolve", lambda name, _: found[name])
    return Base, request.param


def test_a_connection_is_awaited_only_where_that_does_not_block(airflow: Any) -> None:
    base, kind = airflow

    read: Any = asyncio.run(compat.get_async_connection("a", hook=hook_of(base)))

    assert read == ("awaited: a" if kind == "awaitable" else "in a thread: a")


def test_an_override_in_a_hook_is_used(airflow: Any) -> None:
    base, _ = airflow

    async def own(self: Any, conn_id: str) -> str:
        return f"its own: {conn_id}"

    assert asyncio.run(compat.get_async_connection("a", hook=hook_of(base, aget_connection=own))) == "its own: a"


def test_an_overridden_blocking_method_is_used_where_nothing_is_awaited(airflow: Any) -> None:
    base, kind = airflow
    own = classmethod(lambda cls, conn_id: f"its own: {conn_id}")
    expected = "awaited: a" if kind == "awaitable" else "its own: a"

    assert asyncio.run(compat.get_async_connection("a", hook=hook_of(base, get_connection=own))) == expected


def test_this_airflows_own_hook_returns_its_connection_on_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_COMPAT", '{"conn_type": "segmind", "extra": {"model": "m"}}')

    async def read() -> dict[str, Any]:
        connection = await compat.get_async_connection("compat", hook=compat.BaseHook())
        return await compat.get_async_extra_dejson(connection)

    assert asyncio.run(read()) == {"model": "m"}


def test_importing_compat_imports_no_airflow() -> None:
    source = inspect.getsource(compat)
    top = [each for each in ast.parse(source).body if isinstance(each, ast.Import | ast.ImportFrom)]

    assert not [each for each in top if "airflow" in ast.unparse(each)]


def test_airflows_metrics_take_what_this_package_sends() -> None:
    stats = compat.stats()

    stats.incr("segmind.test", 2, tags={"model": "m"})
    stats.gauge("segmind.test", 1, tags={"model": "m"})


def test_a_file_of_an_untracked_path_is_the_stores_own(tmp_path: Path) -> None:
    path = compat.untracked_path((tmp_path / "a").as_uri()) / "b.txt"
    path.parent.mkdir(parents=True)

    with path.open("w") as file:
        file.write("written")

    assert "Tracking" not in type(file).__name__
    assert (tmp_path / "a" / "b.txt").read_text() == "written"
    assert [type(one) for one in path.parent.iterdir()] == [type(path)]


def test_a_relative_path_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Airflow 2.11 takes it from the root of the disk.
    monkeypatch.chdir(tmp_path)
    stored = ResultDestination("answers/sky.md").file("r-1", ".md")
    recorded = compat.untracked_path("records")

    assert [str(path).removeprefix("file://") for path in (stored, recorded)] == [
        str(tmp_path / "answers" / "sky.md"),
        str(tmp_path / "records"),
    ]
    assert (tmp_path / "answers").is_dir()


def test_the_figures_of_a_run_become_the_extra_of_an_outlets_event() -> None:
    try:
        from airflow.sdk import Asset, AssetAlias
        from airflow.sdk.execution_time.context import OutletEventAccessors
    except ImportError:
        from airflow.datasets import Dataset as Asset
        from airflow.datasets import DatasetAlias as AssetAlias
        from airflow.utils.context import OutletEventAccessors
    asset, events = Asset("x-segmind-test://answers"), OutletEventAccessors()

    describe_outlets({"outlet_events": events}, [asset, AssetAlias("an-alias")], {"rows": 2})  # type: ignore[typeddict-item]

    assert events[asset].extra == {"rows": 2}


@pytest.mark.skipif(AIRFLOW < (3,), reason="Airflow 2.11 has no API server for tasks")
def test_the_api_server_of_tests_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.execution_time import supervisor

    monkeypatch.setattr(supervisor, "in_process_api_server", build := object)
    with compat.one_api_server():
        first, second = supervisor.in_process_api_server(), supervisor.in_process_api_server()

    assert first is second
    assert supervisor.in_process_api_server is build
