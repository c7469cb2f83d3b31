"""What every trigger does: serialize, hold its event back, find its poller, and know whose Connections it may see."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

from airflow_provider_segmind.compat import BaseTrigger, TriggerEvent, conf
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.triggers.poller import Poller, poller_of

LATE = 5.0
"""Seconds after a trigger's deadline for which it still waits for its Connection, to poll once."""


class SegmindTrigger(BaseTrigger):
    """
    What all triggers do: serialize, hold an event back, log, and warn when they are killed.

    Arguments that a class does not know are ignored: another version of this package may have deferred the task.
    """

    arguments: ClassVar[tuple[str, ...]]
    """Names of the constructor's arguments, which are attributes as well."""
    segmind_conn_id: str
    not_before: float

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {name: getattr(self, name) for name in self.arguments}

    def warn(self, text: str) -> None:
        """Log a problem while waiting."""
        # Not `self.log.warning` itself: a logger for each trigger would be a tenth of what waiting costs.
        self.log.warning(text)

    async def _poller(self, end_time: float) -> Poller:
        """
        Return the poller of the account.

        :raises Exception: the Connection could not be looked up, soon after ``end_time`` at the latest.
        """
        connection = owner_of(self), self.segmind_conn_id
        found = poller_of(connection, SegmindHook(self.segmind_conn_id).get_async_config)
        return await asyncio.wait_for(found, max(0.0, end_time - time.time()) + LATE)

    async def _event(self, payload: dict[str, Any]) -> TriggerEvent:
        """Return the event once it may be sent."""
        seconds = self.not_before - time.time()
        if seconds > 0:
            await asyncio.sleep(seconds)
        return TriggerEvent(payload)  # type: ignore[no-untyped-call]


def owner_of(trigger: Any) -> str:
    """
    Return whose Connections a trigger may see: those of its team, if Airflow names one.

    Where teams share a triggerer and the team is unknown, the DAG takes its place, as a DAG belongs to one team.
    """
    task = getattr(trigger, "task_instance", None)
    dag_run = getattr(getattr(task, "_ti_context_from_server", None), "dag_run", None)
    for known in (trigger, task, getattr(task, "dag_run", None), dag_run):
        team = getattr(known, "team_name", None)
        if isinstance(team, str) and team:
            return f"team {team}"
    if not conf.getboolean("core", "multi_team", fallback=False):
        return ""
    dag_id = getattr(task, "dag_id", None)
    return f"dag {dag_id}" if dag_id else f"trigger {getattr(trigger, 'trigger_id', None) or id(trigger)}"
