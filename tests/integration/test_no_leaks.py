"""Personal values in every place where an error could quote them: not one of them is in an error, a log or a record.

200 known NIKs and a password are planted; errors of each kind are provoked in each stage; everything that was said is
searched for them: exceptions with their tracebacks, our log at its most talkative, the staging server's log, and what
staging keeps of a batch.
"""

from __future__ import annotations

import io
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

import psycopg
import pytest
import structlog
from staged import KEYS, Staged, escaped, plan
from workbench import MAPPING

from connector import logs, pg
from connector.capture.postgres import protocol
from connector.capture.postgres.changes import ChangeReader
from connector.capture.postgres.pull import KitCalls, PullSource, SlotSettings
from connector.capture.signals import Route, SignalBuffer
from connector.embedded import Server
from connector.errors import ConnectorError
from connector.events import EntityState, EntryKind, Outcome
from connector.mapping.document import loads
from connector.mapping.program import Program, ProgramOptions, compile_entity
from connector.runtime.acts import act
from connector.staging.batch import Read
from connector.staging.party import Report, Standing
from connector.staging.plan import EntityPlan
from connector.view.blocks import Block, check
from connector.view.postgres import PostgresView
from tests.conftest import drop_database, new_database

# Papua: 16 digits that a float would not keep. Nothing else in the tests begins so.
NIKS = [f"917199150190{number:04d}" for number in range(1, 201)]
PASSWORD = "sandi-Rahasia-7731"
PLANTED = (*NIKS, PASSWORD)
NIK = NIKS[0]
DEADLINE_S = 60.0


@dataclass
class Ear:
    """Everything that was said."""

    log: io.StringIO = field(default_factory=io.StringIO)
    said: list[str] = field(default_factory=list)

    def hear(self, error: BaseException) -> None:
        """An error as a crash would print it, as a log would have it, and every fact it carries."""
        self.said += traceback.format_exception(error)
        facts = [getattr(error, name, "") for name in ("message", "hint", "place", "reason", "entity", "problems")]
        self.said += [str(error), repr(error), repr(error.args), repr(facts)]
        logger = logs.get(party="uji")
        logger.error("session_ended", exc_info=error, message=str(error), hint=getattr(error, "hint", ""))
        logger.error("session_ended", error=error)
        logging.getLogger("psycopg").error("lost: %s", error, exc_info=error)

    @contextmanager
    def expecting(self, *kinds: type[Exception]) -> Iterator[None]:
        """What is inside fails, and is heard."""
        with pytest.raises(kinds or ConnectorError) as caught:
            yield
        self.hear(caught.value)

    def found(self) -> list[str]:
        return planted_in("\n".join([self.log.getvalue(), *self.said]))


def planted_in(text: str) -> list[str]:
    return [value for value in PLANTED if value in text]


@pytest.fixture
def ear() -> Iterator[Ear]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    listening = Ear()
    logs.setup("json", level="debug", party="uji", stream=listening.log)
    yield listening
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    assert listening.said or listening.log.getvalue(), "nothing was said: the test proves nothing"
    assert listening.found() == []


@pytest.fixture(scope="module")
def staging(staging_server: Server, staging_template: str) -> Iterator[str]:
    name = new_database(staging_server, "bocor", staging_template)
    yield staging_server.dsn(name)
    drop_database(staging_server, name)


@pytest.fixture
def staged(staging: str) -> Iterator[Staged]:
    made = Staged(staging)
    made.attach()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def staging_log(staging_server: Server) -> Iterator[Callable[[], str]]:
    """What the staging server has logged since the test began; searched after every test here."""
    log = staging_server.data / "server.log"
    before = log.stat().st_size

    def since() -> str:
        return log.read_bytes()[before:].decode(errors="replace")

    yield since
    assert planted_in(since()) == []


RECORDS = """
select coalesce(string_agg(t::text, chr(10)), '') from {} t
"""


def records(staged: Staged) -> str:
    """What staging keeps of batches, states and acts (rows and the quarantine's keys apart)."""
    tables = ("connector.entity", "connector.worker", "connector.wish", "connector.source_offset", "staging.sync_batch")
    found = [staged.query(RECORDS.format(table))[0][0] for table in tables]
    bodies = staged.query("select convert_from(body, 'UTF8') from audit.entry where party = %(party)s")
    return "\n".join([*found, *(body for (body,) in bodies)])


# -- rows of every kind, through the real mapping


def member_plan(staged: Staged) -> tuple[EntityPlan, Program]:
    document = loads(MAPPING.format(party="uji").encode(), "uji.yaml")
    program = compile_entity(document, "anggota", ProgramOptions(staged.parpol_id))
    made = EntityPlan(
        staged.party, staged.parpol_id, program.entity, len(program.inputs), len(program.key), program.columns,
        program.select, program.params, program.mapping_version, program.mapping_digest,
    )  # fmt: skip
    return made, program


GOOD = {
    "orang_id": "1", "nik": NIK, "no_kta": "K1", "nama": "BUDI", "jk": "L", "tgl_lahir": "1990-01-15",
    "nama_kerja": "PETANI", "alamat": "JL A", "kel_kode": "3273011001",
}  # fmt: skip


def hostile_rows(program: Program) -> list[list[str | bytes | None]]:
    """A NIK where anything else is expected, and every way for a cell to be no good."""
    rows: list[list[str | bytes | None]] = []
    for number, nik in enumerate(NIKS):
        name = program.inputs[1 + number % (len(program.inputs) - 1)]
        wrong: list[str | bytes] = [
            nik,
            f"{nik}\n{nik}",
            nik * 40,
            f"'{nik}",
            f"{nik}' || 1/0 || '",
            nik.encode() + b"\xff",
            f"{nik}\0",
            nik[:-1],
        ]
        cells: dict[str, str | bytes | None] = dict(GOOD, orang_id=str(number), nik=nik)
        cells[name] = wrong[number // len(program.inputs) % len(wrong)]
        rows.append([cells.get(column) for column in program.inputs])
    return [*rows, rows[0], [None, *rows[1][1:]]]


@pytest.fixture
def members(staging: str) -> Iterator[tuple[Staged, Program]]:
    """A party whose members pass through a real mapping; its staging sessions have logs as talkative as can be."""
    staged = Staged(staging)
    staged.staging.close()
    staged.plan, program = member_plan(staged)
    talkative = {"log_min_messages": "notice", "log_min_error_statement": "error", "log_error_verbosity": "verbose"}
    for name, value in talkative.items():
        staged.conn.execute(f"alter database {staged.conn.info.dbname} set {name} = '{value}'".encode())
    staged.staging = staged.open()
    staged.attach()
    yield staged, program
    for name in talkative:
        staged.conn.execute(f"alter database {staged.conn.info.dbname} reset {name}".encode())
    staged.close()


def copied(staged: Staged, program: Program, rows: Sequence[Sequence[str | bytes | None]]) -> Outcome:
    lines = [b"\t".join(map(escaped, row)) + b"\n" for row in rows]
    with staged.batch(EntryKind.COPY) as batch:
        batch.apply(staged.plan, [check(lines, len(program.inputs), 1, 500)])
        (outcome,) = batch.outcomes()
    logs.get().info("batch_committed", outcome=outcome, reasons=dict(outcome.reasons))
    return outcome


@pytest.mark.usefixtures("ear")
def test_rows_that_no_mapping_takes_are_told_by_key_and_reason(
    members: tuple[Staged, Program], staging_log: Callable[[], str]
) -> None:
    staged, program = members
    outcome = copied(staged, program, hostile_rows(program))
    assert outcome.quarantined > 50
    assert outcome.inserted > 20, "some of them are good"
    failed = [line for line in staging_log().splitlines() if "ERROR" in line and "autovacuum" not in line]
    assert failed == [], "whatever is in a row, no statement fails"
    assert planted_in(records(staged)) == []
    quarantine = staged.query("select k::text from staging.karantina k where parpol_id = %(parpol)s")
    assert len(quarantine) > 50
    assert planted_in(str(quarantine)) == [], "its key is this party's number, never another cell"


@pytest.mark.usefixtures("ear")
def test_the_digest_of_a_nik_is_the_keyed_one_that_kpu_can_make(members: tuple[Staged, Program]) -> None:
    staged, program = members
    copied(staged, program, [[GOOD.get(column) for column in program.inputs]])
    rows = staged.query("select nik, nik_hmac from staging.anggota where parpol_id = %(parpol)s")
    assert rows == [(NIK, KEYS.nik_hmac(NIK))]


# -- statements that fail at staging


FAILING = {
    "cast": "i1::date::text",
    "number": "(i1::bigint / 0)::text",
    "pattern": "regexp_replace(i1, i1 || '(', '')",
    "too long": "repeat(i1, 10)",
    "raised": "staging.uji_raise(i1)",
    "json": "(i1 || '{')::jsonb::text",
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_mapping_that_fails_is_told_by_its_code(ear: Ear, staged: Staged, kind: str) -> None:
    """Ours never do, whatever the text; should one, the server quotes the value, and nobody repeats it."""
    staged.conn.execute(
        "create or replace function staging.uji_raise(text) returns text language plpgsql as"
        " $$ begin raise exception 'nilai %', $1 using detail = $1, hint = $1; end $$"
    )
    staged.plan = replaced(staged, f"{FAILING[kind]} as nomor")
    with ear.expecting():
        staged.signal([(NIK, NIK, NIK)])


def replaced(staged: Staged, number: str) -> EntityPlan:
    """The test's mapping with another column `nomor`; nothing is refused before the statement fails."""
    select = f"""
        select i0 as source_key, edge, 'SK' as jenis, 'anggota' as pemilik_entity, i1 as pemilik_source_key, {number},
               true as tersedia, null::text[] as indikasi, null::text[] as alasan, null::text[] as alasan_kolom
          from inbox"""
    return replace(plan(staged.party, staged.parpol_id), select=select)


def test_a_missing_value_is_told_by_its_column(ear: Ear, staged: Staged) -> None:
    staged.plan = replace(
        replaced(staged, "i2 as nomor"), select=replaced(staged, "i2 as nomor").select.replace("'SK'", "null")
    )
    with ear.expecting():
        staged.signal([(NIK, NIK, NIK)])
    assert "jenis" in ear.said[-3]


def test_a_doubled_key_is_told_by_its_constraint(ear: Ear, staging: str) -> None:
    staged = Staged(staging)
    with staged.batch(EntryKind.COPY) as batch:
        staged.staging.begin_copy(batch, staged.plan)
    rows = [(nik, nik, nik) for nik in NIKS]
    with ear.expecting(), staged.batch(EntryKind.COPY) as batch:
        for _ in range(2):
            batch.apply(
                staged.plan, [check([b"\t".join(map(escaped, row)) + b"\n" for row in rows], 3, 1, 500)], fresh=True
            )
        staged.staging.attach(batch, staged.plan)
    staged.close()


def test_a_batch_that_does_not_balance_is_told_by_its_entity(ear: Ear, staged: Staged) -> None:
    with ear.expecting():
        staged.signal([(nik, nik, nik) for nik in NIKS], keys=NIKS[:1])


@pytest.mark.parametrize(
    "data", [f"{NIK}\t{NIK}\n", f"{NIK}\t{NIK}\t{NIK}\t{NIK}\n", f"{NIK}\t{NIK}\t\\xff\n", f"{NIK}\t\0{NIK}\t\n"]
)
def test_rows_that_are_no_copy_text_are_told_without_their_line(ear: Ear, staged: Staged, data: str) -> None:
    with ear.expecting(), staged.batch() as batch:
        batch.apply(staged.plan, [Block(data.encode().replace(b"\\xff", b"\xff"), 1, NIK)], [NIK])


def test_a_key_that_cannot_be_sent_is_told_without_it(ear: Ear, staged: Staged) -> None:
    with ear.expecting():
        staged.signal([], f"{NIK}\0")


def test_a_deadlock_and_a_lost_connection_are_told_by_their_code(ear: Ear, staged: Staged) -> None:
    staged.signal([(NIK, NIK, NIK)])
    partition = f"staging.dokumen_p{staged.parpol_id}"

    def cut() -> None:
        with psycopg.connect(staged.dsn) as other:
            other.execute(f"lock table {partition} in access exclusive mode".encode())
            until(lambda: staged.query(WAITING, application=f"connector {staged.party}") != [])
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s",
                (f"connector {staged.party}",),
            )

    cutting = threading.Thread(target=cut)
    cutting.start()
    until(
        lambda: (
            staged.query(
                "select 1 from pg_locks where mode = 'AccessExclusiveLock' and relation = %(t)s::regclass", t=partition
            )
            != []
        )
    )
    with ear.expecting():
        staged.signal([(NIK, NIK, "lain")])
    cutting.join(DEADLINE_S)


WAITING = """
select 1 from pg_stat_activity where application_name = %(application)s and wait_event_type = 'Lock'
"""


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline


def test_what_the_worker_reports_and_records_has_no_value_in_it(ear: Ear, staged: Staged) -> None:
    staged.plan = replaced(staged, "i1::date::text as nomor")
    with pytest.raises(ConnectorError) as caught:
        staged.signal([(NIK, NIK, NIK)])
    error = caught.value
    ear.hear(error)
    staged.staging.report(Report("failed", "uji", error=str(error), hint=error.hint))
    with act(staged.staging, staged.party, {"act": "held", "entity": "dokumen", "message": str(error)}) as batch:
        staged.staging.set_state(
            batch, "dokumen", Standing(EntityState.HELD, "mapping_failed", f"{error}: {error.hint}")
        )
    assert "mapping_failed" in records(staged)
    assert planted_in(records(staged)) == []


# -- the party's side


@dataclass(frozen=True, slots=True)
class Source:
    server: Server
    database: str
    reader: str
    dba: psycopg.Connection

    def open(self, timeout_s: float = 0) -> PostgresView:
        dsn = self.server.dsn(self.database, self.reader)
        return PostgresView(dsn, application="uji", statement_timeout_s=timeout_s, cell_bytes_max=500)


@pytest.fixture(scope="module")
def source(pg15: Server) -> Iterator[Source]:
    database = new_database(pg15, "bocor")
    reader = f"baca_{database}"
    with psycopg.connect(pg15.dsn(database), autocommit=True) as dba:
        dba.execute(f"create role {reader} login".encode())
        dba.execute(f"alter default privileges grant select on tables to {reader}".encode())
        dba.execute("create table kader (nik text primary key, nama text)")
        dba.execute(f"insert into kader select unnest(%s::text[]), '{NIK}'".encode(), (NIKS,))
        yield Source(pg15, database, reader, dba)
    drop_database(pg15, database)
    with psycopg.connect(pg15.dsn(), autocommit=True) as conn:
        conn.execute(f"drop role {reader}".encode())


VIEWS = {
    "a cast in the view": "select nik, nama::date as nama from kader",
    "a value without a place": "select nik, chr(nama::bigint::int) as nama from kader",
    "a raise in the view": "select nik, case when nama <> '' then (nama || '{')::json::text end as nama from kader",
    "a slow view": "select nik, pg_sleep(600)::text as nama from kader",
}


@pytest.mark.parametrize("what", VIEWS)
def test_a_view_that_fails_is_told_by_its_name_and_code(ear: Ear, source: Source, what: str) -> None:
    name = f"v{list(VIEWS).index(what)}"
    source.dba.execute(f"create view {name} as {VIEWS[what]}".encode())
    with closing(source.open(timeout_s=0.1)) as view:
        shape = view.shape("anggota", ("public", name), ["nik"], ["nik", "nama"])
        with ear.expecting():
            view.begin()
            list(view.fetch(shape, NIKS))
        view.end()
        with ear.expecting():
            view.begin()
            list(view.chunk(shape, NIK, 10))


def test_keys_that_the_view_cannot_take_are_told_without_them(ear: Ear, source: Source) -> None:
    source.dba.execute("create view angka as select length(nik) as nik, nama from kader")
    with closing(source.open()) as view:
        shape = view.shape("anggota", ("public", "angka"), ["nik"], ["nik", "nama"])
        for keys in ([f"x{NIK}"], [f"{NIK}\0"], NIKS):
            with ear.expecting(ConnectorError):
                view.begin()
                list(view.fetch(shape, keys))
            view.end()
        with ear.expecting():
            view.begin()
            list(view.matching(shape, ["nik"], [[nik] for nik in NIKS]))


def test_a_party_that_cannot_be_reached_is_told_without_its_password(ear: Ear, source: Source) -> None:
    hidden = f"{source.server.dsn(source.database, 'tiada')} password={PASSWORD}"
    for dsn in (
        hidden,
        f"host=/tiada password={PASSWORD}",
        f"password={PASSWORD} host",
        f"postgresql://u:{PASSWORD}@/tiada?x=1",
    ):
        with ear.expecting():
            pg.connect(dsn, application="uji").close()
        with ear.expecting():
            settings = SlotSettings(dsn, "uji", "tiada", "tiada", {}, 10, 1.0, 1.0)
            PullSource(settings, KitCalls("sipol", "tiada"), None, None, lambda _: True)


def test_a_missing_kit_is_told_by_its_functions(ear: Ear, source: Source) -> None:
    settings = SlotSettings(
        source.server.dsn(source.database, source.reader), "uji", "tiada", "tiada", {}, 10, 1.0, 1.0
    )
    with ear.expecting():
        PullSource(settings, KitCalls("sipol", "tiada"), None, None, lambda _: True)


# -- pure stages


def row(kind: bytes, *values: str) -> bytes:
    cells = b"".join(b"t" + len(value).to_bytes(4, "big") + value.encode() for value in values)
    return kind + (1).to_bytes(4, "big") + b"N" + len(values).to_bytes(2, "big") + cells


def messages() -> Iterator[Sequence[bytes]]:
    begin = b"B" + bytes(20)
    relation = b"R" + (1).to_bytes(4, "big") + b"public\0kader\0d\0\1\1nik\0" + bytes(8)
    yield [row(b"I", NIK)]
    yield [begin, relation, row(b"I", NIK, NIK)]
    yield [begin, relation, row(b"I", NIK)[:-3]]
    yield [begin, relation, row(b"I", NIK) + NIK.encode()]
    yield [begin, relation, row(b"D", NIK)]
    yield [begin, NIK.encode()]
    yield [begin, b"R" + NIK.encode()]
    yield [begin, begin + NIK.encode()]
    yield [begin, b"M\0" + bytes(8) + NIK.encode()]
    yield [begin, b"R" + (1).to_bytes(4, "big") + NIK.encode() + b"\xff\0kader\0d\0\0"]


@pytest.mark.parametrize("fed", list(messages()), ids=range(len(list(messages()))))
def test_a_log_that_cannot_be_read_is_told_without_what_it_says(ear: Ear, fed: Sequence[bytes]) -> None:
    reader = ChangeReader({("public", "kader"): (Route("anggota", key=(("nik", "nik"),)),)}, SignalBuffer(10), 0)
    with ear.expecting():
        for message in fed:
            reader.feed(message)
    with ear.expecting():
        protocol.decode_frame(b"w" + NIK.encode()[:5])


@pytest.mark.parametrize(
    "line", [f"{NIK}\n", f"{NIK}\t{NIK}\t{NIK}\n", f"{NIK}\t{NIK}", f"{NIK}\t\\q{NIK}\n", f"{NIK}\r\t{NIK}\n"]
)
def test_rows_that_are_no_rows_are_told_without_them(ear: Ear, line: str) -> None:
    with ear.expecting():
        check([line.encode()], 2, 1, 100)


def test_a_batch_is_repeated_and_not_quoted(ear: Ear, staged: Staged) -> None:
    """An older read, a position that would go back, another daemon: told by what they are."""
    staged.signal([(NIK, NIK, NIK)])
    with ear.expecting(), staged.batch(read=Read(1)):
        pass
    staged.conn.execute("update connector.source_offset set epoch = epoch + 1 where party = %s", (staged.party,))
    with ear.expecting():
        staged.signal([(NIK, NIK, "lain")])
