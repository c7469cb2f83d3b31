"""Airflow Variables as this package reads them: a Variable that cannot be read is not a missing one."""

from __future__ import annotations

from airflow_provider_segmind.compat import variable_is_missing
from airflow_provider_segmind.exceptions import SegmindStateError


def read_variable(key: str, consequence: str) -> str | None:
    """
    Return a Variable's value, None when there is none.

    From Airflow 3.1 on, a Variable that is reported as missing is asked for once more, see
    :func:`~airflow_provider_segmind.compat.variable_is_missing`.

    :param consequence: what follows if it cannot be read, as a sentence.
    :raises SegmindStateError: it cannot be read.
    """
    from airflow_provider_segmind.compat import Variable

    # By position: Airflow 2.11 has another name for the default.
    text = Variable.get(key, None)
    if text is not None:
        return str(text)
    if variable_is_missing(key):
        return None
    raise SegmindStateError(f"The Airflow Variable {key!r} cannot be read. {consequence}")
