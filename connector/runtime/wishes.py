"""What operators may ask of a running party, and when each wish has a meaning. Each leaves an audit entry."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from connector.events import EntityState
from connector.runtime import errands
from connector.runtime.acts import act
from connector.runtime.pipeline import Entity
from connector.staging.batch import Batch
from connector.staging.party import EntityStatus, PartyStaging, Standing, Wish


def obey(wish: Wish, party: str, staging: PartyStaging, entities: Mapping[str, Entity]) -> None:
    """Do a wish for its entity, or for every entity of the party."""
    states = staging.entities()
    names = [wish.entity] if wish.entity else list(states)
    args = errands.public(wish.args, wish.entity, staging.digest_keys)
    facts: dict[str, object] = {
        "act": wish.verb, "wish": wish.id, "asked_by": wish.asked_by, "entity": wish.entity or "*", "args": args,
    }  # fmt: skip
    with act(staging, party, facts) as batch:
        said = {name: _obey_one(batch, wish, name, staging, states, entities) for name in names}
        outcome = "; ".join(f"{name}: {text}" for name, text in said.items())
        facts["outcome"] = outcome
        staging.obeyed(batch, wish, outcome, args)
    structlog.get_logger().info("wish_obeyed", verb=wish.verb, entity=wish.entity or "*", outcome=outcome)


def _obey_one(
    batch: Batch, wish: Wish, name: str, staging: PartyStaging, states: Mapping[str, EntityStatus],
    entities: Mapping[str, Entity],
) -> str:  # fmt: skip
    if name not in states:
        return "there is no such entity"
    status = states[name]
    if wish.verb in errands.ERRANDS:
        return errands.ERRANDS[wish.verb](batch, name, wish.args)
    match wish.verb, status.state:
        case "pause", EntityState.STREAMING | EntityState.COPYING | EntityState.HELD:
            staging.set_state(batch, name, Standing(EntityState.PAUSED, "asked for"))
        case "resume", EntityState.PAUSED:
            staging.resume_state(batch, name)
        case "resume", EntityState.HELD if status.reason == "quarantine_budget":
            staging.resume_state(batch, name)
        case "approve", EntityState.HELD if status.reason == "delete_brake":
            staging.set_state(batch, name, Standing(EntityState.STREAMING, brake_off=True))
        case "resync", _ if name in entities:
            staging.begin_copy(batch, entities[name].plan)
        case "erase", _ if name in entities:
            return errands.erase(batch, entities[name].plan, wish.args)
        case "prune", _ if name in entities:
            return errands.prune(batch, entities[name].plan, wish.args)
        case "erase" | "prune", _:
            return "nothing to do, its view cannot be read now: ask again when it can"
        case _:
            return f"nothing to do, it is {status.state.value}"
    return "done"
