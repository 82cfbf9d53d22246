"""When a job runs, as an operator writes it: five fields of a cron line, or `every 10min`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

OFF = "off"
_EVERY = re.compile(r"every ([1-9][0-9]{0,5})(s|min|h|d)")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}
HINT = "five fields as in cron (15 2 * * *), `every 10min`, or off"


def trigger(text: str, timezone: str) -> Any:
    """The APScheduler trigger of a schedule.

    Raises:
        ValueError: it is none, or there is no such zone.
    """
    # Imported here: a command line that runs no job is not to wait for it.
    from apscheduler.triggers.cron import CronTrigger
    from apscheduler.triggers.interval import IntervalTrigger

    zone = _zone(timezone)
    every = _EVERY.fullmatch(text)
    if every:
        pause = timedelta(**{_UNITS[every[2]]: int(every[1])})
        return IntervalTrigger(seconds=int(pause.total_seconds()), timezone=zone)
    return CronTrigger.from_crontab(text, timezone=zone)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, LookupError) as error:  # a name that is a folder, or none
        raise ValueError(f"no time zone {name}") from error


def problem(text: str, timezone: str = "UTC") -> str | None:
    """What is wrong with a schedule; None where nothing is."""
    if text == OFF:
        return None
    try:
        trigger(text, timezone)
    except ValueError:
        return "is no schedule"
    return None
