"""
Budgets in Redis: one Lua script for each step, which Redis runs as a whole or not at all.

Redis adds whole numbers of 64 bits exactly. Lua compares floats, which represent trillionths of a dollar exactly up to
$9,007; above that, a comparison with a limit is off by a few of them.

All keys have one hash tag, so that a cluster keeps them together. No key expires. Redis must not evict keys, and a
budget is as durable as Redis keeps its data.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from airflow_provider_segmind.budget.limits import Window, spent_warning
from airflow_provider_segmind.budget.store import (
    PARTS,
    Granted,
    Refused,
    Reservation,
    ReservedInWindow,
    ReserveOutcome,
    Usage,
    flight_key,
    from_parts,
    in_parts,
    log_warning,
    warn_from,
)
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError

_log = logging.getLogger(__name__)
KEY_PREFIX = "{segmind-budget}:"
TIMEOUT = 5.0
"""Seconds for one script, and for connecting."""
PAUSES = (0.1, 0.5, 2.0)
"""Seconds before a script is run again after Redis did not answer."""
_COMMON = """
local prefix = ARGV[1]
local function counter(key) return prefix .. 'counter:' .. key end
local function number(text) return tonumber(text or '0') end
-- HINCRBY does not read '-0'.
local function whole(value) return value == 0 and '0' or string.format('%.0f', value) end
local crossed = {}
local function warn_once(key)
  local have = redis.call('HMGET', counter(key), 'spent', 'warn', 'limit')
  if number(have[2]) > 0 and number(have[1]) >= number(have[2])
      and redis.call('HSETNX', counter(key), 'warned', '1') == 1 then
    table.insert(crossed, key)
    table.insert(crossed, have[3])
  end
end
local function answer(values)
  for _, each in ipairs(crossed) do table.insert(values, each) end
  return values
end
local function move(row, returned, billed)
  for _, key in ipairs(cjson.decode(redis.call('HGET', row, 'windows'))) do
    redis.call('HINCRBY', counter(key), 'spent', whole(billed))
    redis.call('HINCRBY', counter(key), 'reserved', whole(-returned))
    if billed > 0 then warn_once(key) end
  end
end
local function release(row, slots)
  if slots > 0 then
    redis.call('HINCRBY', counter(redis.call('HGET', row, 'flight')), 'reserved', whole(-slots))
    redis.call('HINCRBY', row, 'slots', whole(-slots))
  end
end
local function renewed(row, id, now)
  redis.call('HSET', row, 'renewed_at', now)
  redis.call('ZADD', prefix .. 'renewed', now, id)
end
local function owned(row) return prefix .. 'owner:' .. redis.call('HGET', row, 'owner') end
local function left(row)
  return math.max(0, number(redis.call('HGET', row, 'amount')) - number(redis.call('HGET', row, 'spent')))
end
"""
_TAKE = """
local function note_limits()
  for _, one in ipairs(wanted) do
    if one.warn then
      redis.call('HSET', counter(one.key), 'limit', one.limit, 'warn', one.warn)
      warn_once(one.key)
    end
  end
end
for index, one in ipairs(wanted) do
  local have = redis.call('HMGET', counter(one.key), 'spent', 'reserved')
  local used = number(have[1]) + number(have[2])
  if one.limit and used + number(one.needed) > number(one.limit) then
    note_limits()
    return answer({'refused', tostring(index), whole(math.max(0, number(one.limit) - used))})
  end
end
local outcome, room = {'granted', ''}, math.huge
for _, one in ipairs(wanted) do
  redis.call('HINCRBY', counter(one.key), 'reserved', one.needed)
  if one.warn then
    local have = redis.call('HMGET', counter(one.key), 'spent', 'reserved')
    room = math.min(room, math.max(0, number(one.limit) - number(have[1]) - number(have[2])))
    outcome[2] = whole(room)
  end
end
note_limits()
"""
"""Reserves in all counters that are ``wanted``, or returns from the script."""
_RESERVE = (
    """
local id, fields, wanted = ARGV[2], cjson.decode(ARGV[3]), cjson.decode(ARGV[4])
local row = prefix .. 'reservation:' .. id
if redis.call('EXISTS', row) == 1 then return {'granted', ''} end
"""
    + _TAKE
    + """
for name, value in pairs(fields) do redis.call('HSET', row, name, value) end
redis.call('ZADD', prefix .. 'open', fields.reserved_at, id)
redis.call('SADD', owned(row), id)
renewed(row, id, fields.renewed_at)
return answer(outcome)
"""
)
_EXTEND = (
    """
local row = prefix .. 'reservation:' .. ARGV[2]
if redis.call('EXISTS', row) == 0 then return {'closed'} end
local wanted = cjson.decode(ARGV[5])
if tonumber(ARGV[4]) > 0 then
  local flight = {key = redis.call('HGET', row, 'flight'), needed = ARGV[4]}
  if ARGV[6] ~= '' then flight.limit = ARGV[6] end
  table.insert(wanted, flight)
end
"""
    + _TAKE
    + """
redis.call('HINCRBY', row, 'amount', ARGV[3])
redis.call('HINCRBY', row, 'slots', ARGV[4])
return answer(outcome)
"""
)
_TAKE_OVER = """
local row, new = prefix .. 'reservation:' .. ARGV[2], prefix .. 'reservation:' .. ARGV[3]
if redis.call('EXISTS', row) == 0 then return 0 end
redis.call('RENAME', row, new)
redis.call('HSET', new, 'id', ARGV[3])
redis.call('ZREM', prefix .. 'open', ARGV[2])
redis.call('ZADD', prefix .. 'open', redis.call('HGET', new, 'reserved_at'), ARGV[3])
redis.call('ZREM', prefix .. 'renewed', ARGV[2])
renewed(new, ARGV[3], redis.call('HGET', new, 'renewed_at'))
redis.call('SREM', owned(new), ARGV[2])
redis.call('SADD', owned(new), ARGV[3])
local request = redis.call('HGET', new, 'request_id')
if request and request ~= '' then redis.call('HSET', prefix .. 'requests', request, ARGV[3]) end
return 1
"""
_CHANGE = """
local row = prefix .. 'reservation:' .. ARGV[2]
if ARGV[3] ~= '' then
  local windows = redis.call('HGET', row, 'windows') or ''
  local first = redis.call('HGET', prefix .. 'requests', ARGV[3])
  if first and first ~= ARGV[2] and windows ~= '' and redis.call('HGET', prefix .. 'windows', ARGV[3]) == windows then
    return 2
  end
  redis.call('HSET', prefix .. 'requests', ARGV[3], ARGV[2])
  redis.call('HSETNX', prefix .. 'windows', ARGV[3], windows)
  redis.call('ZADD', prefix .. 'noted', ARGV[4], ARGV[3])
end
if redis.call('EXISTS', row) == 0 then return 0 end
if ARGV[3] ~= '' then
  redis.call('HSET', row, 'sending', '1', 'request_id', ARGV[3])
  return 1
end
if redis.call('HGET', row, 'sending') == '1' then return 0 end
redis.call('HSET', row, 'sending', '1', 'reserved_at', ARGV[4])
redis.call('ZADD', prefix .. 'open', ARGV[4], ARGV[2])
renewed(row, ARGV[2], ARGV[4])
return 1
"""
_SPEND = """
local row = prefix .. 'reservation:' .. ARGV[2]
if redis.call('EXISTS', row) == 0 then return {'closed'} end
local billed, have = number(ARGV[3]), left(row)
local returned = math.min(number(ARGV[5]), math.max(0, have - billed))
move(row, math.min(billed, have) + returned, billed)
redis.call('HINCRBY', row, 'spent', ARGV[3])
redis.call('HINCRBY', row, 'amount', whole(-returned))
release(row, math.min(number(ARGV[4]), number(redis.call('HGET', row, 'slots'))))
if ARGV[6] ~= '' then renewed(row, ARGV[2], ARGV[6]) end
return answer({'open'})
"""
_SETTLE = """
local row = prefix .. 'reservation:' .. ARGV[2]
if redis.call('EXISTS', row) == 0 then return {'closed'} end
move(row, left(row), number(ARGV[3]))
release(row, number(redis.call('HGET', row, 'slots')))
redis.call('ZREM', prefix .. 'open', ARGV[2])
redis.call('ZREM', prefix .. 'renewed', ARGV[2])
redis.call('SREM', owned(row), ARGV[2])
redis.call('DEL', row)
return answer({'open'})
"""
_RELEASE = """
local row = prefix .. 'reservation:' .. ARGV[2]
local slots = number(redis.call('HGET', row, 'slots') or '0')
if slots == 0 then return 0 end
release(row, slots)
return 1
"""
_CLAIM = """
local row = prefix .. 'reservation:' .. ARGV[2]
if redis.call('HGET', row, 'renewed_at') ~= ARGV[3] then return 0 end
renewed(row, ARGV[2], ARGV[4])
return 1
"""
_OPEN = """
local found = {}
local ids
if ARGV[2] ~= '' then ids = {redis.call('HGET', prefix .. 'requests', ARGV[2])}
elseif ARGV[3] ~= '' then ids = redis.call('SMEMBERS', prefix .. 'owner:' .. ARGV[3])
elseif ARGV[5] ~= '' then ids = redis.call('ZRANGEBYSCORE', prefix .. 'renewed', '-inf', '(' .. ARGV[5])
else ids = redis.call('ZRANGE', prefix .. 'open', 0, -1) end
for _, id in ipairs(ids) do
  local row = id and prefix .. 'reservation:' .. id
  local have = row and redis.call('HMGET', row, 'owner', 'connection', 'renewed_at')
  if have and have[1] and (ARGV[3] == '' or have[1] == ARGV[3]) and (ARGV[4] == '' or have[2] == ARGV[4])
      and (ARGV[5] == '' or number(have[3]) < number(ARGV[5])) then
    table.insert(found, redis.call('HGETALL', row))
  end
end
return found
"""
_PENDING = """
local function counts(id, ...)
  local have = redis.call('HMGET', prefix .. 'reservation:' .. id, 'windows', ...)
  return have[1] and string.find(have[1], ARGV[2], 1, true) and have
end
local old, latest = 0, ''
for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'open', '-inf', '(' .. ARGV[3])) do
  local have = counts(id, 'kind', 'amount', 'spent')
  if have and have[2] ~= 'slice' then old = old + math.max(0, number(have[3]) - number(have[4])) end
end
local first = 0
while latest == '' do
  local ids = redis.call('ZREVRANGE', prefix .. 'open', first, first + 99)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    local have = counts(id, 'reserved_at')
    if have then latest = have[2] break end
  end
  first = first + 100
end
return {whole(old), latest}
"""
_KNOWN = """
local found = {}
for index = 2, #ARGV do table.insert(found, redis.call('HEXISTS', prefix .. 'requests', ARGV[index])) end
return found
"""
_FORGET = """
for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'noted', '-inf', '(' .. ARGV[2], 'LIMIT', 0, 10000)) do
  redis.call('HDEL', prefix .. 'requests', id)
  redis.call('HDEL', prefix .. 'windows', id)
  redis.call('ZREM', prefix .. 'noted', id)
end
return 0
"""
_USAGE = """
local found = {}
for index = 2, #ARGV do
  table.insert(found, redis.call('HMGET', counter(ARGV[index]), 'spent', 'reserved'))
end
return found
"""


class RedisBudgetStore:
    """
    Budgets in Redis.

    May be used by several threads.

    :param url: ``redis://…``, ``rediss://…`` or ``unix://…``; may contain a password and is never shown.
    :param prefix: of all keys; a hash tag keeps them in one slot of a cluster.
    :param warn: called with a warning.
    :raises SegmindConfigError: the extra is not installed, or the URL cannot be read.
    """

    def __init__(
        self, url: str, *,
        prefix: str = KEY_PREFIX,
        warn: Callable[[str], None] = log_warning, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise SegmindConfigError(
                "Budgets in Redis need the extra [redis]: pip install 'airflow-provider-segmind[redis]'. Nothing was "
                "sent."
            ) from error
        try:
            self._client: Any = redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
        except ValueError as error:
            # `from None`, because the library quotes the URL and it may hold a password.
            raise SegmindConfigError(
                f"The Redis URL of the budgets cannot be used ({type(error).__name__}); it must look like "
                "'redis://host:6379/0'. Nothing was sent."
            ) from None
        at = self._client.connection_pool.connection_kwargs
        place = at.get("path") or f"{at.get('host', 'localhost')}:{at.get('port', 6379)}, database {at.get('db', 0)}"
        self.name = f"Redis at {place}"
        self._error: type[Exception] = redis.RedisError
        self._refused: type[Exception] = redis.ResponseError
        self._prefix = prefix
        self._warn = warn
        self._sleep = sleep
        self._checked = False
        texts = {
            "extend": _EXTEND,
            "take_over": _TAKE_OVER,
            "reserve": _RESERVE,
            "change": _CHANGE,
            "spend": _SPEND,
            "settle": _SETTLE,
            "release": _RELEASE,
            "claim": _CLAIM,
            "open": _OPEN,
            "pending": _PENDING,
            "usage": _USAGE,
            "known": _KNOWN,
            "forget": _FORGET,
        }
        self._scripts = {name: self._client.register_script(_COMMON + text) for name, text in texts.items()}

    def reserve(
        self, reservation: Reservation, windows: Sequence[Window], *, max_in_flight: int | None
    ) -> ReserveOutcome:
        """Reserve an amount in all windows and its slots, or nothing."""
        self._check_eviction()
        wanted = _wanted(reservation.amount, windows)
        if reservation.slots:
            limit = {} if max_in_flight is None else {"limit": str(max_in_flight)}
            wanted.append({"key": flight_key(reservation.connection), "needed": str(reservation.slots), **limit})
        answer = self._run("reserve", reservation.id, json.dumps(_fields(reservation)), json.dumps(wanted))
        return self._outcome(answer, windows, reservation.amount, reservation.slots)

    def extend(
        self, reservation_id: str, amount: int, windows: Sequence[Window], *, slots: int = 0, max_in_flight: int | None
    ) -> ReserveOutcome | None:
        """Reserve more for an open reservation, or nothing; None if it is not open."""
        values = reservation_id, str(in_parts(amount)), str(slots), json.dumps(_wanted(amount, windows))
        limit = "" if max_in_flight is None else str(max_in_flight)
        answer = self._run("extend", *values, limit, repeatable=False)
        return None if answer[0] == "closed" else self._outcome(answer, windows, amount, slots)

    def _outcome(self, answer: Sequence[str], windows: Sequence[Window], amount: int, slots: int) -> ReserveOutcome:
        if answer[0] == "refused":
            index, left = int(answer[1]) - 1, int(answer[2])
            self._warn_of(answer[3:])
            if index == len(windows):
                return Refused(None, left, slots)
            return Refused(windows[index], from_parts(left), amount)
        self._warn_of(answer[2:])
        return Granted(from_parts(int(answer[1])) if answer[1] else math.inf)

    def _warn_of(self, crossed: Sequence[str]) -> None:
        """Warn about windows; ``crossed`` alternates between the key of a window and its limit."""
        for key, limit in zip(crossed[::2], crossed[1::2], strict=True):
            self._warn(spent_warning(key, from_parts(int(limit))))

    def take_over(self, reservation_id: str, new_id: str) -> bool:
        """Continue an open reservation under another id."""
        return bool(self._run("take_over", reservation_id, new_id, repeatable=False))

    def sending(self, reservation_id: str, now: float) -> bool:
        """Record that the request may be sent from now on; return whether this had not been recorded before."""
        return bool(self._run("change", reservation_id, "", _milliseconds(now), repeatable=False))

    def accepted(self, reservation_id: str, request_id: str) -> bool:
        """Record the id that Segmind gave to a request; return whether its bill is to be settled here."""
        return bool(self._run("change", reservation_id, request_id, _milliseconds(time.time())) != 2)

    def known(self, request_ids: Iterable[str]) -> set[str]:
        """Return which of these requests have a known reservation, open or closed."""
        ids = list(request_ids)
        return {one for one, known in zip(ids, self._run("known", *ids), strict=True) if known} if ids else set()

    def forget(self, before: float) -> None:
        """Forget the ids of requests that were recorded before a time."""
        self._run("forget", _milliseconds(before))

    def spend(
        self, reservation_id: str, billed: float, *, returned: int = 0, release_slots: int = 0, now: float | None = None
    ) -> bool:
        """Move a bill from reserved to spent; the rest stays reserved, except for what is returned."""
        values = reservation_id, str(in_parts(billed)), str(release_slots), str(in_parts(returned))
        return self._counted(self._run("spend", *values, "" if now is None else _milliseconds(now), repeatable=False))

    def settle(self, reservation_id: str, billed: float) -> bool:
        """Close a reservation: what was billed is spent, the rest and the slots are returned."""
        return self._counted(self._run("settle", reservation_id, str(in_parts(billed))))

    def _counted(self, answer: Sequence[str]) -> bool:
        self._warn_of(answer[1:])
        return answer[0] == "open"

    def release_slots(self, reservation_id: str) -> bool:
        """Return the slots of a reservation and keep its amount; return whether it had any."""
        return bool(self._run("release", reservation_id))

    def claim(self, reservation: Reservation, now: float) -> bool:
        """Renew a reservation unless another process renewed it since it was read; return whether it was renewed."""
        times = _milliseconds(reservation.renewed_at), _milliseconds(now)
        return bool(self._run("claim", reservation.id, *times, repeatable=False))

    def find(self, request_id: str) -> Reservation | None:
        """Return the open reservation of a request, None if there is none."""
        found = self._run("open", request_id, "", "", "")
        return _reservation(found[0]) if found else None

    def open_reservations(
        self, *, owner: str | None = None, connection: str | None = None, renewed_before: float | None = None
    ) -> list[Reservation]:
        """Return open reservations, the oldest first."""
        before = "" if renewed_before is None else _milliseconds(renewed_before)
        found = [_reservation(row) for row in self._run("open", "", owner or "", connection or "", before)]
        return sorted(found, key=lambda one: (one.reserved_at, one.id))

    def reserved_in(self, key: str, before: float) -> ReservedInWindow:
        """Return what is reserved in a window."""
        old, latest = self._run("pending", json.dumps(key), _milliseconds(before))
        return ReservedInWindow(from_parts(int(old)), int(latest) / 1000 if latest else None)

    def usage(self, keys: Iterable[str]) -> dict[str, Usage]:
        """Return what is used of each window; nothing if it is not known to the store."""
        names = list(keys)
        rows = zip(names, self._run("usage", *names), strict=True)
        return {
            key: Usage(from_parts(int(spent or 0)), from_parts(int(reserved or 0)))
            for key, (spent, reserved) in rows
            if spent is not None or reserved is not None
        }

    def in_flight(self, connection: str) -> int:
        """Return the number of paid requests in flight of a Connection that have a slot."""
        return int(self._run("usage", flight_key(connection))[0][1] or 0)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _run(self, script: str, *values: str, repeatable: bool = True) -> Any:
        """
        Run a script, again if Redis did not answer.

        :param repeatable: whether it may be repeated if it is not known whether it was run.
        :raises SegmindStateError: Redis did not answer.
        """
        for pause in (*PAUSES, None):
            try:
                return self._scripts[script](keys=[f"{self._prefix}open"], args=[self._prefix, *values])
            except (self._error, OSError) as error:
                if pause is None or not repeatable or isinstance(error, self._refused):
                    # Its text may show the address with the password.
                    raise SegmindStateError(
                        f"The store of budgets ({self.name}) cannot be used: {type(error).__name__}."
                    ) from None
                self._sleep(pause)
        raise AssertionError("unreachable")

    def _check_eviction(self) -> None:
        """
        Check once that Redis does not remove keys when its memory is full.

        :raises SegmindConfigError: it does.
        """
        if self._checked:
            return
        try:
            policy = str(self._client.info("memory").get("maxmemory_policy", ""))
        except (self._error, OSError):
            # This Redis user may not read the settings. If Redis does not respond at all, the next call fails.
            policy = ""
        if policy.startswith("allkeys"):
            raise SegmindConfigError(
                f"{self.name} evicts keys when its memory is full (maxmemory-policy {policy}), and would lose what was "
                "spent. Budgets need the policy noeviction. Nothing was sent."
            )
        if self._keeps_nothing():
            _log.warning(
                "%s keeps nothing on disk (no append-only file, no snapshots): when it is restarted, it forgets what "
                "was spent, and all of a budget can be spent again",
                self.name,
            )
        self._checked = True

    def _keeps_nothing(self) -> bool:
        """Return whether Redis is known to lose everything when it is restarted."""
        try:
            if self._client.info("persistence").get("aof_enabled", 1):
                return False
            return bool(self._client.config_get("save").get("save") == "")
        except (self._error, OSError):
            # Managed services refuse to say how they keep data.
            return False


def _wanted(amount: int, windows: Sequence[Window]) -> list[dict[str, Any]]:
    return [
        {
            "key": window.key,
            "needed": str(in_parts(amount)),
            "limit": str(in_parts(window.limit)),
            "warn": str(warn_from(in_parts(window.limit))),
        }
        for window in windows
    ]


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _fields(one: Reservation) -> dict[str, str]:
    texts = ("id", "owner", "kind", "connection", "model", "digest", "request_id", "ledger")
    return {
        **{name: getattr(one, name) for name in texts},
        "amount": str(in_parts(one.amount)),
        "spent": str(in_parts(one.spent)),
        "base": str(in_parts(one.base)),
        "windows": json.dumps(one.windows),
        "slots": str(one.slots),
        "flight": flight_key(one.connection),
        "sending": str(int(one.sending)),
        "reserved_at": _milliseconds(one.reserved_at),
        "renewed_at": _milliseconds(one.renewed_at),
    }


def _reservation(row: Sequence[str]) -> Reservation:
    values: Mapping[str, str] = dict(zip(row[::2], row[1::2], strict=True))
    known: dict[str, Any] = {name: value for name, value in values.items() if name != "flight"}
    read = {
        "amount": int(values["amount"]) // PARTS,
        "spent": from_parts(int(values["spent"])),
        "base": from_parts(int(values["base"])),
        "windows": tuple(json.loads(values["windows"])),
        "slots": int(values["slots"]),
        "sending": values["sending"] == "1",
        "reserved_at": int(values["reserved_at"]) / 1000,
        "renewed_at": int(values["renewed_at"]) / 1000,
    }
    return Reservation(**{**known, **read})
