"""When an entity may be written, by the calendar of stages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from connector.staging.stages import Stage, closed

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def stage(opens_h: float, closes_h: float | None, *entities: str, name: str = "PENDAFTARAN") -> Stage:
    closes = None if closes_h is None else NOW + closes_h * HOUR
    return Stage(name, NOW + opens_h * HOUR, closes, entities, "Keputusan KPU 1")


@pytest.mark.parametrize(
    "stages",
    [
        (),
        (stage(-2, None),),
        (stage(-2, 1),),
        (stage(0, 1),),
        (stage(-2, -1, "kantor"),),
        (stage(-2, -1), stage(-0.5, 1)),
        (stage(-2, -1, "kantor"), stage(-2, 1, "anggota")),
    ],
)
def test_an_entity_is_open_where_no_stage_names_it_or_one_is_open(stages: tuple[Stage, ...]) -> None:
    assert closed(stages, "anggota", NOW) is None


@pytest.mark.parametrize(
    "stages",
    [
        (stage(-2, 0),),
        (stage(-2, -1),),
        (stage(1, 2),),
        (stage(-2, -1, "anggota"), stage(-2, 1, "kantor")),
    ],
)
def test_outside_its_stages_it_is_closed(stages: tuple[Stage, ...]) -> None:
    assert closed(stages, "anggota", NOW) is not None


def test_the_reason_names_the_stage_that_closed_and_the_one_to_come() -> None:
    found = closed(
        (stage(-9, -8, name="A"), stage(-5, -1, name="B"), stage(2, 3, name="C"), stage(9, 10)), "anggota", NOW
    )
    assert found is not None
    assert found.message.startswith("stage B closed at 2026-11-30 ")
    assert "Keputusan KPU 1" in found.message
    assert "C opens" in found.hint
    never = closed((stage(2, 3, name="C"),), "anggota", NOW)
    assert never is not None
    assert never.message == "no stage is open yet"
