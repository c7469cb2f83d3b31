"""Which budgets apply to a Connection's requests, and where they are kept; read at run time, never at DAG parse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.budget.guard import BudgetSettings
from airflow_provider_segmind.budget.limits import CONNECTION_BUDGET, BudgetRule, budget_rule, read_budgets
from airflow_provider_segmind.budget.redis_store import RedisBudgetStore
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from airflow_provider_segmind.budget.store import BudgetStore
from airflow_provider_segmind.chat.cost_estimate import Price
from airflow_provider_segmind.compat import conf
from airflow_provider_segmind.exceptions import SegmindConfigError, did_you_mean, shorten
from airflow_provider_segmind.hooks.connection import max_paid_in_flight
from airflow_provider_segmind.stores import database_hook

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import Context


def budget_settings(
    conn_id: str, extra: Mapping[str, Any], budget: str | None, prices: Mapping[str, Price] | None
) -> BudgetSettings:
    """
    Read the budgets of a Connection, and the one that a task names.

    :param extra: the Connection's extra, decoded.
    :param budget: a name of ``[segmind] budgets``.
    :param prices: a user's own.
    :raises SegmindConfigError: a limit cannot be read, or there is no store to enforce it; nothing was sent.
    """
    named = _named()
    rules = [rule for rule in (connection_budget(conn_id, extra),) if rule is not None]
    if budget is not None:
        if budget not in named:
            known = did_you_mean(budget, named) or f": it has {', '.join(map(repr, sorted(named))) or 'none'}."
            shown = shorten(repr(budget), 60)
            raise SegmindConfigError(f"'budget' is {shown}, which is not in [segmind] budgets{known} Nothing was sent.")
        rules.append(named[budget])
    most = max_paid_in_flight(conn_id, extra)
    if not (named or rules or most is not None):
        return BudgetSettings()
    store = budget_store()
    if store is None and budget is None and (rules or most is not None) and extra.get("redis_url"):
        store = RedisBudgetStore(str(extra["redis_url"]))
    if store is None and (rules or most is not None):
        raise _no_store(f"Budget {rules[-1].name!r}" if rules else "'max_paid_in_flight'")
    return BudgetSettings(store=store, rules=tuple(rules), max_in_flight=most, prices=prices or {})


def named_budgets() -> BudgetSettings:
    """
    Read all of ``[segmind] budgets``, whichever tasks name them.

    :raises SegmindConfigError: they cannot be read, or there is no store to enforce them.
    """
    rules = tuple(_named().values())
    store = budget_store() if rules else None
    if rules and store is None:
        raise _no_store(f"Budget {rules[-1].name!r}")
    return BudgetSettings(store=store, rules=rules)


def _named() -> dict[str, BudgetRule]:
    return read_budgets(conf.get("segmind", "budgets", fallback="") or "")


def _no_store(what: str) -> SegmindConfigError:
    return SegmindConfigError(
        f"{what} needs a store that all tasks share, but none is set: set [segmind] spend_conn_id (a database) or "
        "[segmind] budget_redis_url. Without one it could not be enforced. Nothing was sent."
    )


def task_owner(context: Context) -> str:
    """Return the name under which a task instance reserves, the same in each of its tries."""
    ti = context["ti"]
    index = getattr(ti, "map_index", -1)
    return f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{-1 if index is None else index}"


def budget_conn_id() -> str | None:
    """Return the id of the Connection whose database keeps the budgets, None if Redis keeps them, or nothing does."""
    if conf.get("segmind", "budget_redis_url", fallback=""):
        # Takes precedence: it has no other use, while spend_conn_id may be set for the spend record alone.
        return None
    return conf.get("segmind", "spend_conn_id", fallback="") or None


def budget_store() -> BudgetStore | None:
    """
    Return the store of the deployment's budgets, None if the configuration names none.

    :raises SegmindConfigError: budgets cannot be kept there.
    """
    if conn_id := budget_conn_id():
        return SqlBudgetStore(database_hook(conn_id, "[segmind] spend_conn_id"), conn_id)
    url = conf.get("segmind", "budget_redis_url", fallback="")
    return RedisBudgetStore(url) if url else None


def connection_budget(conn_id: str, extra: Mapping[str, Any]) -> BudgetRule | None:
    """
    Return the budget of a Connection, None if it has none.

    :raises SegmindConfigError: a field cannot be read; nothing was sent.
    """
    return budget_rule(
        CONNECTION_BUDGET + conn_id,
        *(extra.get(name) for name in ("daily_budget", "monthly_budget", "budget_timezone")),
        field=f"Extra of connection {conn_id!r}",
    )
