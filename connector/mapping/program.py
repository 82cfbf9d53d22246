"""One entity of a mapping compiled to one SELECT that maps a whole batch inside the staging database.

Pure: a checked document in, SQL text and parameters out. No name and no value of a mapping file stands in the SQL: view
columns are `i0`, `i1`, ... of the inbox, values are parameters, and what it sets are columns of our own contract.

The statement reads a table `inbox` with a text column for each of `Program.inputs`, in order, and `edge`: the code
under which the byte check refused the row, or null. It gives one row for each of the inbox: source_key, edge, the
contract's columns in their types, indikasi (findings, or null), alasan (why the row is not staged, or null) and
alasan_kolom (parallel to alasan: the staging column, or an empty text for the row as a whole). It raises for no text
whatever. It wants a work_mem of 32 MB or more (the list of regions as a hash table takes 7 MB) and no JIT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from connector.errors import MappingError
from connector.mapping import checks, occupations, regions, rules
from connector.mapping.cells import Fault, cell, key_text
from connector.mapping.check import inputs as inputs_of
from connector.mapping.checks import Checked, checked
from connector.mapping.contract import ENTITIES, Column, Entity, Kind
from connector.mapping.reasons import FINDINGS
from connector.mapping.rules import Condition, Document, EntityMapping, Lineage, Policy, Rule
from connector.mapping.sheet import Sheet

__all__ = ["Lineage", "Program", "ProgramOptions", "compile_entity", "source_key_sql"]


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """What the configuration says about a party. A LOKAL_ACEH party's members may have no NIK."""

    parpol_id: int
    jenis: str = "NASIONAL"


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled entity; the module's head says what `select` reads and gives."""

    entity: str
    view: tuple[str, str]
    key: tuple[str, ...]
    inputs: tuple[str, ...]
    columns: tuple[str, ...]
    select: str
    params: dict[str, object]
    mapping_version: str
    mapping_digest: str
    lineage: tuple[Lineage, ...]


@dataclass(frozen=True, slots=True)
class _Output:
    """A staging column: SQL of its value, the conditions that refuse it, and findings about it."""

    name: str
    value: str
    faults: tuple[Fault, ...] = ()
    notes: tuple[Fault, ...] = ()


def compile_entity(document: Document, entity_name: str, options: ProgramOptions) -> Program:
    """Compile one entity of a checked document.

    Raises:
        MappingError: the document has no such entity, or lacks what this kind of party must give.
    """
    mapping = document.entities.get(entity_name)
    if mapping is None:
        raise MappingError(f"the mapping of {document.party} has no entity `{entity_name}`", hint="see its `entities`")
    contract = ENTITIES[entity_name]
    nik = contract.column("nik")
    if nik is not None and _required(nik, options, contract) and mapping.rule("nik") is None:
        raise MappingError(f"`{entity_name}` needs a rule for `nik`", hint="only a LOKAL_ACEH party may go without")
    inputs = inputs_of(mapping)
    names = {column: f"i{place}" for place, column in enumerate(inputs)}
    sheet = Sheet("inbox", (*names.values(), "edge"))
    outputs, notes = _Compiler(sheet, mapping, contract, options, names).compile()
    select = _statement(sheet, mapping, names, outputs, notes)
    return Program(
        entity=entity_name,
        view=mapping.view,
        key=mapping.key,
        inputs=inputs,
        columns=tuple(output.name for output in outputs),
        select=select,
        params=sheet.params,
        mapping_version=document.version,
        mapping_digest=document.digest,
        lineage=mapping.lineage,
    )


def source_key_sql(names: tuple[str, ...]) -> str:
    """SQL of the staging key over these columns; the same text as `events.source_key`, null when a part is null."""
    return key_text(names)


def _required(column: Column, options: ProgramOptions, contract: Entity) -> bool:
    if column.kind is Kind.NIK and contract.name == "anggota" and options.jenis == "LOKAL_ACEH":
        return False
    return column.required


class _Compiler:
    """Writes an entity's expressions into a sheet, column by column."""

    def __init__(
        self, sheet: Sheet, mapping: EntityMapping, contract: Entity, options: ProgramOptions, names: Mapping[str, str]
    ) -> None:
        self._sheet = sheet
        self._mapping = mapping
        self._contract = contract
        self._options = options
        self._names = names
        self._made: dict[str, _Output] = {}
        self._nik_dropped: str | None = None
        self._nik_faults: tuple[Fault, ...] = ()

    def compile(self) -> tuple[list[_Output], list[Fault]]:
        """The staging columns in contract order, and all findings."""
        # The birth date and the NIK first: they are compared, and a sex may come from the NIK. `tingkat` stands before
        # the region it decides on, in the contract and so here.
        first = {"tanggal_lahir": 0, "nik": 1}
        for rule in sorted(self._mapping.rules, key=lambda rule: first.get(rule.column, 2)):
            for output in self._rule(rule):
                self._made[output.name] = output
        ordered = [self._made[column.name] for column in self._contract.columns if column.name in self._made]
        notes = [note for output in ordered for note in output.notes]
        return ordered, [*notes, *self._across(self._made)]

    def _rule(self, rule: Rule) -> Iterable[_Output]:
        column = self._contract.column(rule.column)
        assert column is not None
        if column.kind is Kind.REGION:
            yield from self._region(rule, column)
        elif isinstance(rule.source, rules.Const) and not rule.steps:
            yield _Output(column.name, self._constant(rule.source.text, column))
        else:
            blank_between = isinstance(rule.source, rules.Join) and not rule.source.between.strip()
            collapse = column.kind is not Kind.NAME or not blank_between
            made = cell(self._sheet, rule, self._names, collapse=collapse)
            found = checked(self._sheet, rule, column, made, born=self._has_birth_date())
            if any(isinstance(step, rules.SexFromNik) for step in rule.steps):
                found = self._sex_from_nik(found)
            yield self._settled(rule, column, found)

    def _constant(self, text: str, column: Column) -> str:
        match column.kind:
            case Kind.TEXT | Kind.NAME | Kind.CHOICE | Kind.NIK | Kind.REGION:
                return self._sheet.param(text)
            case Kind.DIGEST:
                return self._sheet.param(bytes.fromhex(text.removeprefix("\\x")), "bytea")
            case Kind.NUMBER:
                return self._sheet.param(int(text), column.sql_type)
            case Kind.TRUTH:
                return self._sheet.param(text == "true", "boolean")
            case Kind.DATE:
                return self._sheet.param(text, "date")

    def _settled(self, rule: Rule, column: Column, found: Checked) -> _Output:
        """Apply what the rule says about empty and unusable values."""
        value, faults, notes = found.value, found.faults, found.notes
        invalid: str | None = None
        if faults and rule.on_invalid is not Policy.QUARANTINE:
            invalid = self._sheet.let(f"z_{column.name}", _case(faults))
            code = "NILAI_DIKOSONGKAN" if rule.on_invalid is Policy.NULL else "NILAI_DIGANTI"
            notes = (*notes, (f"{invalid} is not null", code))
            value = self._sheet.let(f"u_{column.name}", f"case when {invalid} is null then {value} end")
            faults = ()
        absent = found.absent
        if rule.default is not None:
            value = self._sheet.let(f"uu_{column.name}", f"coalesce({value}, {self._constant(rule.default, column)})")
        elif _required(column, self._options, self._contract) or rule.required:
            faults = (*faults, (absent, "REQUIRED"))
        if column.kind is Kind.NIK:
            self._nik_dropped = invalid
            self._nik_faults = found.faults
        return _Output(column.name, value, faults, notes)

    def _has_birth_date(self) -> bool:
        born = self._mapping.rule("tanggal_lahir")
        return born is not None and not isinstance(born.source, rules.Const)

    def _sex_from_nik(self, found: Checked) -> Checked:
        if self._mapping.rule("nik") is None:
            return found
        given = found.value
        # Only a NIK that passed all its checks says anything.
        wrong = self._sheet.let("z_nik", _case(self._nik_faults))
        letter = f"case when {checks.NIK_IS_WOMAN} then 'P' else 'L' end"
        sex = f"case when {wrong} is null and n_nik is not null then {letter} end"
        value = self._sheet.let("vs_jenis_kelamin", f"coalesce({given}, {sex})")
        note = (f"{given} is null and {value} is not null", "KELAMIN_DARI_NIK")
        return Checked(value, f"{value} is null", (), (*found.notes, note))

    def _nik_good(self) -> str:
        """The NIK can be compared. Findings about a refused row are not kept, so its own check need not be asked."""
        return f"n_nik is not null and {self._nik_dropped} is null" if self._nik_dropped else "n_nik is not null"

    def _region(self, rule: Rule, column: Column) -> Iterable[_Output]:
        made = cell(self._sheet, rule, self._names)
        found = regions.place(self._sheet, rule, made, self._names)
        if self._contract.placed:
            for name, value, faults in regions.member_columns(found):
                notes = regions.member_notes(found) if name == "kode_kelurahan" else ()
                yield _Output(name, value, faults, notes)
        elif column.name == "kode_kelurahan":
            yield self._settled(rule, column, regions.village(self._sheet, found, column.name))
        else:
            level = self._made["tingkat"].value
            yield self._settled(rule, column, regions.of_level(self._sheet, found, column.name, level))

    def _across(self, made: Mapping[str, _Output]) -> Iterable[Fault]:
        """Findings that compare columns."""
        if "nik" in made:
            yield from self._about_nik(made)
        if "pekerjaan" in made and self._contract.name == "anggota":
            code = made["pekerjaan_kode"].value if "pekerjaan_kode" in made else None
            yield occupations.note(self._sheet, made["pekerjaan"].value, code, self._plain_input("pekerjaan"))
        if self._contract.name == "anggota":
            status = made.get("status_perkawinan")
            single = f"coalesce({status.value} not in ('S', 'P'), true)" if status else "true"
            born = made["tanggal_lahir"].value
            yield f"{born} > {checks.SEVENTEEN} and {single}", "INDIKASI_USIA"
            soon = f"{born} > {checks.SEVENTEEN_TODAY} and {born} <= {checks.SEVENTEEN}"
            yield f"{soon} and {single}", "USIA_SAAT_INI"
        if "tanggal_sk" in made:
            yield f"{made['tanggal_sk'].value} > {checks.TODAY}", "TANGGAL_SK_DEPAN"

    def _about_nik(self, made: Mapping[str, _Output]) -> Iterable[Fault]:
        good = self._nik_good()
        if self._has_birth_date():
            yield f"{good} and w_tanggal_lahir is not null and not ({checks.NIK_AGREES})", "NIK_TANGGAL"
        if "jenis_kelamin" in made:
            sex = made["jenis_kelamin"].value
            yield f"{good} and ({checks.NIK_IS_WOMAN}) <> ({sex} = 'P')", "NIK_KELAMIN"
        # A join, not EXISTS: probing a hashed subplan costs twice as much.
        on = "awalan.angka = n_nik / 10000000000"
        self._sheet.join("staging.ref_nik_prefix", "awalan", on, {"awalan_j": "awalan.angka"}, early=True)
        yield f"{good} and awalan_j is null", "INDIKASI_NIK_WILAYAH"

    def _plain_input(self, column: str) -> str | None:
        rule = self._mapping.rule(column)
        if rule is None or not isinstance(rule.source, rules.From):
            return None
        same = all(isinstance(step, rules.Trim | rules.Case) for step in rule.steps)
        return self._names[rule.source.column] if same else None


def _statement(
    sheet: Sheet, mapping: EntityMapping, names: Mapping[str, str], outputs: list[_Output], notes: list[Fault]
) -> str:
    key = sheet.let("kunci", key_text(tuple(names[column] for column in mapping.key)))
    row = sheet.let("x_", _row_reason(sheet, key, mapping.when, names))
    judged = [(output.name, _real(output.faults)) for output in outputs if _real(output.faults)]
    # The reasons themselves are worked out for a row that has any; a good row pays for one chain of conditions.
    bad = " or ".join(condition for _, faults in judged for condition, _ in faults) or "false"
    reasons = _array([_case(faults) for _, faults in judged])
    alasan = sheet.let("cacat", f"case when {row} is not null then array[{row}] when {bad} then {reasons} end")
    columns = _array([f"case when {_case(faults)} is not null then '{name}' end" for name, faults in judged])
    select = (
        ("source_key", key),
        ("edge", "edge"),
        *((output.name, output.value) for output in outputs),
        ("indikasi", _findings(notes)),
        ("alasan", alasan),
        (
            "alasan_kolom",
            f"case when {alasan} is null then null when {row} is not null then array[''] else {columns} end",
        ),
    )
    return sheet.select(select)


def _row_reason(sheet: Sheet, key: str, when: tuple[Condition, ...], names: Mapping[str, str]) -> str:
    """One reason for the row as a whole; a row without its key or with broken bytes is not judged further."""
    arms = ["when edge is not null then edge", f"when {key} is null then 'NULL_KEY'"]
    for condition in when:
        texts = ", ".join(sheet.param(text) for text in condition.texts)
        arms.append(f"when not coalesce({names[condition.column]} in ({texts}), false) then '{condition.reason}'")
    return f"case {' '.join(arms)} end"


def _findings(notes: list[Fault]) -> str:
    """An array of codes in the catalogue's order, or null."""
    found = [(code, [condition for condition, noted in _real(notes) if noted == code]) for code in FINDINGS]
    found = [(code, conditions) for code, conditions in found if conditions]
    if not found:
        return "null::text[]"
    joined = [(code, " or ".join(f"({condition})" for condition in conditions)) for code, conditions in found]
    codes = [f"case when {condition} then '{code}' end" for code, condition in joined]
    return f"case when {' or '.join(condition for _, condition in joined)} then {_array(codes)} end"


def _real(faults: Iterable[Fault]) -> list[Fault]:
    return [(condition, code) for condition, code in faults if condition != "false"]


def _array(items: list[str]) -> str:
    return f"array_remove(array[{', '.join(items)}]::text[], null)" if items else "null::text[]"


def _case(arms: Iterable[Fault]) -> str:
    return f"case {' '.join(f'when {condition} then {code!r}' for condition, code in _real(arms))} end"
