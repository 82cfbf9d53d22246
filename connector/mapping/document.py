"""A mapping file read and checked whole: YAML in, a frozen `Document` out, or every problem with its place.

Every scalar is text. pydantic describes the file's shape (and its JSON Schema) and stays inside this module. No
database, no clock, no environment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from connector.errors import MappingError
from connector.mapping import check, rules
from connector.mapping.contract import ENTITIES
from connector.mapping.rules import Document, EntityMapping, Policy
from connector.yamlpos import Node, Place, Plain, Problem, Table, closest, parse, place_at, plain, shown

# A person's mapping of all eight entities is about 20 KiB; a larger list belongs in reference data.
SIZE_BYTES_MAX = 262_144
PARTY_NAME = r"^[a-z][a-z0-9_]{0,30}$"

Path_ = tuple[str | int, ...]


# ------------------------------------------------------------------------------------------------- shape

# In an editor a schema sees YAML's own numbers and booleans; here every scalar is read as text.
_SCALAR = {"type": ["string", "number", "boolean"]}


def _flag(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _short_from(value: object) -> object:
    return {"from": value} if isinstance(value, str) else value


def _short_date(value: object) -> object:
    return {"format": value} if isinstance(value, str) else value


def _short_pad(value: object) -> object:
    return {"width": value} if isinstance(value, str) else value


def _one_or_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _null_sign(value: object) -> object:
    """In a test, `~` is NULL and everything else is text."""
    return None if value == "~" else value


Text = Annotated[str, WithJsonSchema(_SCALAR)]
Word = Annotated[str, Field(min_length=1), WithJsonSchema(_SCALAR)]
Flag = Annotated[Literal[True, False], BeforeValidator(_flag), WithJsonSchema({"type": "boolean"})]
On = Annotated[Literal[True], BeforeValidator(_flag), WithJsonSchema({"const": True})]
Words = Annotated[
    list[Word],
    BeforeValidator(_one_or_list),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]}),
]
Columns = Annotated[list[Word], Field(min_length=1, max_length=20)]
Cell = Annotated[
    str | None, BeforeValidator(_null_sign), WithJsonSchema({"type": ["string", "number", "boolean", "null"]})
]
PolicyWord = Literal["quarantine", "null", "default"]
Format = Literal["YYYY-MM-DD", "DD/MM/YYYY", "MM/DD/YYYY", "DD-MM-YYYY", "YYYYMMDD"]
# Longer than any column of the contract; a pad or slice past it is a slip.
Width = Annotated[int, Field(ge=1, le=255)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class _Split(_Model):
    on: Annotated[str, Field(min_length=1, max_length=20), WithJsonSchema(_SCALAR)]
    at: Literal["first", "last"] = "first"
    take: Literal["before", "after"]
    absent: Literal["null", "whole"] = "null"


class _Slice(_Model):
    start: Width
    length: Width | None = None


class _Pad(_Model):
    width: Width
    filler: Annotated[str, Field(min_length=1, max_length=1), WithJsonSchema(_SCALAR)] = Field("0", alias="with")


class _Date(_Model):
    format: Format
    time: Flag = False
    unknown: Words = Field(default_factory=list)


class _Rule(_Model):
    from_: Word | None = Field(None, alias="from", description="one view column")
    const: Text | None = Field(None, description="the same text in every row")
    join: Columns | None = Field(None, description="several view columns, blanks collapsed")
    with_: Annotated[str, Field(max_length=20), WithJsonSchema(_SCALAR)] | None = Field(None, alias="with")
    key: Columns | None = Field(None, description="the source key another entity makes from these columns")
    split: _Split | None = None
    slice: _Slice | None = None
    trim: On | None = None
    case: Literal["upper", "lower"] | None = None
    digits: On | None = None
    pad: Annotated[_Pad, BeforeValidator(_short_pad)] | None = None
    codes: Annotated[dict[Text, Text], Field(min_length=1)] | None = None
    unknown: PolicyWord | None = Field(None, description="what a code outside `codes` becomes; quarantine if not said")
    date: Annotated[_Date, BeforeValidator(_short_date)] | None = None
    rtrw: Literal["rt", "rw"] | None = None
    region: Literal["kemendagri", "bps", "names"] | None = None
    bridge: Literal["staging.ref_wilayah_bps"] | None = Field(None, description="with `region: bps`, and only then")
    province: Word | None = None
    city: Word | None = None
    district: Word | None = None
    village: Word | None = None
    from_nik: On | None = Field(None, description="sex from the NIK where the cell gives none")
    required: On | None = None
    default: Text | None = None
    on_invalid: PolicyWord | None = None


Rule_ = Annotated[_Rule, BeforeValidator(_short_from)]


class _Lineage(_Model):
    table: Word
    key: dict[Word, Word] | None = None
    match: dict[Word, Word] | None = None


class _Condition(_Model):
    column: Word
    in_: Words = Field(alias="in")
    reason: Word = "ROW_EXCLUDED"


class _Test(_Model):
    name: Word
    row: dict[Word, Cell]
    gives: dict[Word, Cell] | None = None
    rejects: Words | None = None
    findings: Words | None = None


class _Entity(_Model):
    view: Word
    key: Columns
    lineage: list[_Lineage] = Field(default_factory=list)
    when: list[_Condition] = Field(default_factory=list)
    columns: dict[str, Rule_]
    tests: list[_Test] = Field(default_factory=list)


class _Document(_Model):
    party: Annotated[str, Field(pattern=PARTY_NAME)]
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,39}$"), WithJsonSchema(_SCALAR)]
    entities: Annotated[dict[str, _Entity], Field(min_length=1)]


# ------------------------------------------------------------------------------------------------- load


def load(path: Path, shown_as: str | None = None) -> Document:
    """Read and check a mapping file.

    Raises:
        MappingError: with every problem found, each `file:line:column: message; what to do`.
    """
    name = shown_as or str(path)
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_BYTES_MAX + 1)
    except OSError as exc:
        raise MappingError("the mapping file cannot be read", hint="is the path right?", place=name) from exc
    return loads(content, name)


def loads(content: bytes, file: str) -> Document:
    """As `load`, from bytes; `file` is the name that places carry."""
    if len(content) > SIZE_BYTES_MAX:
        raise _refusal(file, [Problem(Place(file), f"larger than {SIZE_BYTES_MAX // 1024} KiB")])
    reading = parse(content, file)
    problems = list(reading.problems)
    document: Document | None = None
    if isinstance(reading.root, Table):
        document = _build(reading.root, problems)
    elif reading.root is not None:
        problems.append(Problem(reading.root.place, "a mapping must be a table of keys"))
    if problems or document is None:
        raise _refusal(file, problems)
    return document


def _refusal(file: str, problems: list[Problem]) -> MappingError:
    texts = tuple(dict.fromkeys(str(problem) for problem in sorted(problems, key=lambda problem: problem.place)))
    count = "one problem" if len(texts) == 1 else f"{len(texts)} problems"
    return MappingError(f"{count} in the mapping", problems=texts, place=file, hint="each is listed with its place")


def _build(root: Table, problems: list[Problem]) -> Document | None:
    """The document, or None; what is wrong is added to `problems`."""
    content = plain(root)
    assert isinstance(content, dict)
    errors = _errors(content)
    problems += [_problem_of(details, root) for details in errors]
    if errors:
        # What has a wrong shape is cut out, so that the rest is checked for sense in the same run.
        rest = _without(content, [details["loc"] for details in errors])
        if rest is None or _errors(rest):
            return None
        content = rest
    model = _Document.model_validate(content)
    for name, entity in model.entities.items():
        for column, rule in entity.columns.items():
            for key, message, hint in _rule_problems(rule):
                path: Path_ = ("entities", name, "columns", column, *((key,) if key else ()))
                problems.append(Problem(place_at(root, path, key=True), message, hint))
    document = _document(model, content, root)
    said = {name: _column_names(root, name) for name in document.entities}
    for path, message, hint, at_key in check.problems(document, said):
        problems.append(Problem(place_at(root, path, key=at_key), message, hint))
    return document


def _errors(content: Plain) -> list[ErrorDetails]:
    try:
        _Document.model_validate(content)
    except ValidationError as exc:
        return exc.errors(include_url=False, include_input=False)
    return []


# Stands in for a key that cannot be read.
_SOME_KEY = "some key"


def _without(content: Plain, places: Iterable[Path_]) -> dict[str, Plain] | None:
    """`content` with what is wrong at `places` cut out or made harmless; None when nothing sensible is left.

    Only to look for further problems: it is never compiled.
    """
    cut = json.loads(json.dumps(content))
    for place in places:
        match place:
            case ("entities", str(name), *rest) if name in cut["entities"]:
                if not _cut(cut["entities"][name], tuple(rest)):
                    del cut["entities"][name]
            case ("entities", str(), *_):
                pass  # gone already
            case (str(key),) if key not in _Document.model_fields:
                del cut[key]
            case _:
                return None
    for entity in cut["entities"].values():
        for part in ("lineage", "when", "tests"):
            # Lineage and tests speak of the key: without it they make no sense.
            kept = part == "when" or entity["key"] != [_SOME_KEY]
            entity[part] = [item for item in entity.get(part, []) if kept and item is not None]
    assert isinstance(cut, dict)
    return cut


def _cut(entity: dict[str, Any], place: Path_) -> bool:
    """Cut one place out of an entity; False when the entity is lost with it."""
    match place:
        case ("columns", str(column), *_):
            entity["columns"].pop(column, None)
        case ("lineage" | "when" | "tests" as part, int(index), *_):
            entity[part][index] = None  # several problems of one item are several places, and the item goes once
        case ("view", *_):
            entity["view"] = "some.view"
        case ("key", *_):
            entity["key"] = [_SOME_KEY]
        case (str(key), *_) if key != "columns":
            entity.pop(key, None)
        case _:
            return False
    return True


def _column_names(root: Table, entity: str) -> frozenset[str]:
    """The columns that the file names for an entity, well or badly."""
    node: Node | None = root
    for key in ("entities", entity, "columns"):
        node = node.get(key) if isinstance(node, Table) else None
    return frozenset(node.keys()) if isinstance(node, Table) else frozenset()


# ------------------------------------------------------------------------------------------------- to plain values


def _document(model: _Document, content: dict[str, Plain], root: Table) -> Document:
    entities = {name: _entity(name, entity, root) for name, entity in model.entities.items()}
    return Document(model.party, model.version, entities, _digest(content))


def _digest(content: dict[str, Plain]) -> str:
    """SHA-256 of the file's content as JSON with sorted keys and no blanks, every scalar a text, `tests` left out."""
    kept = json.loads(json.dumps(content))
    for entity in kept["entities"].values():
        entity.pop("tests", None)
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _entity(name: str, model: _Entity, root: Table) -> EntityMapping:
    return EntityMapping(
        name=name,
        view=_table(model.view),
        key=tuple(model.key),
        when=tuple(rules.Condition(item.column, tuple(item.in_), item.reason) for item in model.when),
        rules=_in_contract_order(name, (_rule(column, rule) for column, rule in model.columns.items())),
        lineage=tuple(rules.Lineage(_table(item.table), item.key or {}, item.match or {}) for item in model.lineage),
        examples=tuple(_example(test, name, index, root) for index, test in enumerate(model.tests)),
    )


def _in_contract_order(entity: str, found: Iterable[rules.Rule]) -> tuple[rules.Rule, ...]:
    contract = ENTITIES.get(entity)
    order = [column.name for column in contract.columns] if contract else []
    return tuple(sorted(found, key=lambda rule: order.index(rule.column) if rule.column in order else len(order)))


def _table(text: str) -> tuple[str, str]:
    """`schema.name`; without a schema the first part is empty, which `check` refuses."""
    schema, dot, name = text.partition(".")
    return (schema, name) if dot else ("", text)


def _example(model: _Test, entity: str, index: int, root: Table) -> rules.Example:
    line = place_at(root, ("entities", entity, "tests", index)).line
    rejects = None if model.rejects is None else tuple(model.rejects)
    findings = None if model.findings is None else tuple(model.findings)
    return rules.Example(model.name, model.row, model.gives, rejects, findings, line)


def _rule(column: str, model: _Rule) -> rules.Rule:
    return rules.Rule(
        column=column,
        source=_source(model),
        steps=tuple(_steps(model)),
        required=bool(model.required),
        default=model.default,
        on_invalid=Policy(model.on_invalid or "quarantine"),
    )


def _source(model: _Rule) -> rules.Source:
    if model.join is not None:
        return rules.Join(tuple(model.join), " " if model.with_ is None else model.with_)
    if model.key is not None:
        return rules.KeyOf(tuple(model.key))
    if model.const is not None:
        return rules.Const(model.const)
    if model.region == "names" and model.province is not None:
        return rules.Names(model.province, model.city, model.district, model.village)
    return rules.Nothing() if model.from_ is None else rules.From(model.from_)


def _steps(model: _Rule) -> Iterable[rules.Step]:
    """The steps in the order they are done, whatever their order in the file."""
    if model.split is not None:
        split = model.split
        yield rules.Split(split.on, split.at == "last", split.take == "before", split.absent == "whole")
    if model.slice is not None:
        yield rules.Slice(model.slice.start, model.slice.length or 0)
    if model.trim:
        yield rules.Trim()
    if model.case is not None:
        yield rules.Case(model.case == "upper")
    if model.digits:
        yield rules.Digits()
    if model.pad is not None:
        yield rules.Pad(model.pad.width, model.pad.filler)
    if model.codes is not None:
        yield rules.Codes(tuple(model.codes.items()), Policy(model.unknown or "quarantine"))
    if model.date is not None:
        yield rules.DateFormat(model.date.format, bool(model.date.time), tuple(model.date.unknown))
    if model.rtrw is not None:
        yield rules.RtRw(model.rtrw == "rw")
    if model.region is not None:
        yield rules.Region(model.region)
    if model.from_nik:
        yield rules.SexFromNik()


# ------------------------------------------------------------------------------------------------- problems

_SOURCES = ("from", "const", "join", "key")
_NAME_PARTS = ("province", "city", "district", "village")


def _rule_problems(rule: _Rule) -> Iterable[tuple[str | None, str, str]]:
    """What is wrong between the keys of one rule: the key it stands at (None: the rule itself), message, hint."""
    given = {field.alias or name for name, field in _Rule.model_fields.items() if name in rule.model_fields_set}
    sources = [key for key in _SOURCES if key in given]
    names = [key for key in _NAME_PARTS if key in given]
    if len(sources) > 1:
        yield sources[1], f"`{sources[0]}` already says where the value comes from", "keep one of them"
    if rule.region == "names":
        if sources:
            yield sources[0], f"`region: names` takes no `{sources[0]}`", "name the columns by province, city, district"
        if rule.province is None:
            yield "region", "`region: names` needs `province`", "regions are found from the top down"
        for upper, lower in (("city", "district"), ("district", "village")):
            if lower in given and upper not in given:
                yield lower, f"`{lower}` needs `{upper}`", "regions are found from the top down"
    else:
        for key in names:
            yield key, f"`{key}` belongs to `region: names`", "add `region: names`"
        if not sources and not rule.from_nik:
            yield None, "where does the value come from?", "one of: from, const, join, key"
    if rule.region == "bps" and rule.bridge is None:
        hint = "BPS codes look like Kemendagri codes of other places: declare `bridge: staging.ref_wilayah_bps`"
        yield "region", "`region: bps` needs `bridge`", hint
    yield from _lonely(rule, given)


def _lonely(rule: _Rule, given: set[str]) -> Iterable[tuple[str | None, str, str]]:
    if "with" in given and rule.join is None:
        yield "with", "`with` belongs to `join`", "remove it"
    if "unknown" in given and rule.codes is None:
        yield "unknown", "`unknown` belongs to `codes`", "for other checks it is called `on_invalid`"
    if "bridge" in given and rule.region != "bps":
        yield "bridge", "`bridge` belongs to `region: bps`", "remove it"
    if rule.unknown == "quarantine" and rule.on_invalid in ("null", "default"):
        yield (
            "unknown",
            f"`on_invalid: {rule.on_invalid}` already says what becomes of an unknown code",
            "keep one of them",
        )
    for key in ("unknown", "on_invalid"):
        if getattr(rule, key) == "default" and rule.default is None:
            yield key, f"`{key}: default` needs `default`", "say which value"
    shaping = [key for key in ("date", "rtrw", "region") if key in given]
    if len(shaping) > 1:
        yield shaping[1], f"`{shaping[0]}` and `{shaping[1]}` exclude each other", "keep one of them"


_MODELS: Mapping[tuple[str, ...], type[BaseModel]] = {
    (): _Document,
    ("entities", "*"): _Entity,
    ("entities", "*", "columns", "*"): _Rule,
    ("entities", "*", "columns", "*", "split"): _Split,
    ("entities", "*", "columns", "*", "slice"): _Slice,
    ("entities", "*", "columns", "*", "pad"): _Pad,
    ("entities", "*", "columns", "*", "date"): _Date,
    ("entities", "*", "lineage", "*"): _Lineage,
    ("entities", "*", "when", "*"): _Condition,
    ("entities", "*", "tests", "*"): _Test,
}


def _known_keys(path: Path_) -> tuple[str, ...]:
    """The keys that may stand where `path` ends."""
    for pattern, model in _MODELS.items():
        if len(pattern) == len(path) and all(word in ("*", step) for word, step in zip(pattern, path, strict=True)):
            return tuple(field.alias or name for name, field in model.model_fields.items())
    return ()


def _problem_of(details: ErrorDetails, root: Table) -> Problem:
    """One pydantic error in our words."""
    path = details["loc"]
    key = shown(str(path[-1])) if path else "the mapping"
    place = place_at(root, path)
    context = details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            return Problem(
                place_at(root, path, key=True), f"unknown key `{key}`", closest(str(path[-1]), _known_keys(path[:-1]))
            )
        case "missing":
            return Problem(place_at(root, path[:-1], key=True), f"`{key}` is missing")
        case "literal_error":
            return Problem(place, f"`{key}` must be {context.get('expected', 'another word')}")
        case "string_type":
            return Problem(place, f"`{key}` must be text")
        case "string_too_short" | "too_short":
            return Problem(place, f"`{key}` is empty")
        case "string_too_long" | "too_long":
            return Problem(place, f"`{key}` is too long", f"at most {context.get('max_length')}")
        case "string_pattern_mismatch":
            return Problem(
                place, f"`{key}` may hold only letters, digits and a few signs", f"pattern {context.get('pattern')}"
            )
        case "int_parsing" | "int_type":
            return Problem(place, f"`{key}` must be a whole number")
        case "greater_than_equal" | "less_than_equal":
            return Problem(place, f"`{key}` is out of range", details["msg"])
        case "list_type":
            return Problem(place, f"`{key}` must be a list", f"write it as [{key}]")
        case "dict_type" | "model_type" | "model_attributes_type":
            return Problem(place, f"`{key}` must be a table of keys")
        case _:
            return Problem(place, f"`{key}`: {details['msg']}")


def schema_text() -> str:
    """The JSON Schema of a mapping file, for editors; schemas/mapping.schema.json is this text."""
    schema = _Document.model_json_schema(by_alias=True)
    definitions = {name.strip("_"): body for name, body in schema.pop("$defs").items()}
    # The short forms: a column name for a rule, a format for a date, a width for a pad.
    formats = definitions["Date"]["properties"]["format"]
    for name, short in (("Rule", _SCALAR), ("Date", formats), ("Pad", {"type": "integer"})):
        definitions[name] = {"anyOf": [short, definitions[name]]}
    entities = schema["properties"]["entities"]
    entities["propertyNames"] = {"enum": list(ENTITIES)}
    definitions["Entity"]["properties"]["columns"]["description"] = "staging column: where its value comes from"
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mapping of a party's views to the staging contract",
        "description": "schemas/README.md explains each key.",
    }
    whole = {**head, **{key: value for key, value in schema.items() if key not in head}, "$defs": definitions}
    return json.dumps(_untitled(whole), indent=2).replace('"#/$defs/_', '"#/$defs/') + "\n"


def _untitled(node: object, *, top: bool = True) -> object:
    """Without the titles that pydantic makes up from names, and without null as a choice: a key is there or not."""
    if isinstance(node, list):
        return [_untitled(item, top=False) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _untitled(value, top=False)
        for key, value in node.items()
        if (top or key != "title" or not isinstance(value, str)) and not (key == "default" and value is None)
    }
    only = kept.get("anyOf")
    if isinstance(only, list) and len(only) == 1 and isinstance(only[0], dict):
        kept = {**only[0], **{key: value for key, value in kept.items() if key != "anyOf"}}
    return kept
