"""`connector check [PARTY]`: everything that would keep a sync from working, in one pass, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from connector.capture.finding import Finding
from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.errors import ConnectorError, EnvironmentMissing, UsageError
from connector.ops.check import check_party, check_staging
from connector.settings import Config

STAGING = "staging"
UNREACHABLE = ("UNREACHABLE", "STAGING_UNREACHABLE")
LACKING = ("DEBEZIUM_MISSING", "JAVA_MISSING", "JAVA_TOO_OLD")


class ChecksFailed(ConnectorError):
    """Findings of level error: exit code 1."""


def register(app: typer.Typer) -> None:
    @app.command("check")
    def check(
        ctx: typer.Context,
        party: Annotated[str | None, typer.Argument(help="Only this party; default: staging and every party.")] = None,
        verbose: Annotated[bool, typer.Option("--all", help="Show also what is in order.")] = False,
        json: JsonOption = False,
    ) -> None:
        """Examine staging and the parties' databases, and change nothing."""
        run_verb("check", json, lambda: _check(given(ctx), party, verbose))


def _check(options: Globals, only: str | None, verbose: bool) -> Answer:
    config = options.load()
    if only is not None:
        config.party(only)
    found = dict(_examined(config, only))
    counts = {
        level: sum(f.level == level for group in found.values() for f in group) for level in ("ok", "warning", "error")
    }
    summary = f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} in order"
    result = {
        "counts": counts,
        "findings": [{"place": place, **asdict(f)} for place, group in found.items() for f in group],
    }
    return Answer(summary, result, (_table(found, verbose),), error=_verdict(found, counts["error"]))


def _examined(config: Config, only: str | None) -> Iterator[tuple[str, tuple[Finding, ...]]]:
    """Staging first; then each party, whatever the others' state."""
    try:
        with staging_dsn(config) as dsn:
            yield STAGING, check_staging(dsn)
    except EnvironmentMissing as exc:
        yield STAGING, (Finding("error", "STAGING_UNREACHABLE", STAGING, exc.message, exc.hint),)
    for name, party in config.parties.items():
        if only == name:
            yield name, check_party(party)
        elif only is None:
            try:
                yield name, check_party(party)
            except UsageError as exc:
                yield name, (Finding("error", "UNUSABLE", name, str(exc), exc.hint or "see `connector mapping lint`"),)


def _table(found: Mapping[str, tuple[Finding, ...]], verbose: bool) -> Table:
    rows = tuple(
        (place, finding.level, finding.code, finding.subject, finding.message, finding.remedy or None)
        for place, group in found.items()
        for finding in group
        if verbose or finding.level != "ok"
    )
    return Table(("where", "level", "code", "subject", "finding", "remedy"), rows)


def _verdict(found: Mapping[str, tuple[Finding, ...]], errors: int) -> ConnectorError | None:
    if not errors:
        return None
    away = [place for place, group in found.items() if any(finding.code in UNREACHABLE for finding in group)]
    if away:
        return EnvironmentMissing(f"cannot reach {', '.join(away)}", hint="each finding names its remedy")
    bare = [place for place, group in found.items() if any(finding.code in LACKING for finding in group)]
    if bare:
        said = f"this machine lacks what {', '.join(bare)} needs"
        return EnvironmentMissing(said, hint="each finding names its remedy")
    return ChecksFailed(f"{errors} findings must be mended", hint="each finding names its remedy")
