"""Occupations that may not join a party: by SIAK code and by words in free text. An indication, never a verdict.

The lists are the domain's: civil servants, army, police, election organisers, village heads (PKPU 4/2022 art. 32). A
word that says "former" or "not" lifts it: `TNI (purn)` may join.
"""

from __future__ import annotations

from connector.mapping.cells import Fault
from connector.mapping.sheet import Sheet

# Rows of a batch whose occupations are taken for the common ones: a register has a few dozen, free text a few hundred.
SAMPLE_ROWS = 2_000

BARRED_WORDS = (
    "pns", "cpns", "asn", "pppk", "p3k", "pegawai negeri", "aparatur sipil", "aparatur",
    "tni", "tentara", "kodim", "koramil", "babinsa",
    "polri", "polisi", "kepolisian", "brimob", "bhabinkamtibmas",
    "kpu", "bawaslu", "panwaslu", "panwascam", "dkpp", "kpps", "penyelenggara pemilu",
    "kepala desa", "kades", "lurah", "keuchik", "geuchik", "wali nagari", "kuwu", "pambakal", "hukum tua",
)  # fmt: skip
LIFTING_WORDS = (
    "purn", "purna", "purnawirawan", "purnabakti", "pensiun", "pensiunan", "mantan", "eks", "ex", "bekas", "veteran",
    "istri", "isteri", "suami", "anak", "non", "bukan",
)  # fmt: skip


def note(sheet: Sheet, text: str, code: str | None, raw_input: str | None) -> Fault:
    """The finding's condition.

    Args:
        text: SQL of the mapped occupation.
        code: SQL of its SIAK code, if the party has one.
        raw_input: the inbox column `text` is taken from unchanged, if it is. Occupations repeat: the words are then
            looked for once for each of a batch's common ones, and again only for a row that holds none of those.
    """
    coded = f"{code} = any (array(select kode from staging.ref_pekerjaan where barred = 'ANGGOTA')) or " if code else ""
    if raw_input is None:
        return f"{coded}{_barred(text)}", "INDIKASI_PEKERJAAN"
    sample = f"select {raw_input} as nama from inbox limit {SAMPLE_ROWS}"
    query = f"select nama, {_barred('nama')} as dilarang\nfrom (select distinct nama from ({sample}) s) k"
    table = sheet.table("kerja", query)
    sheet.join(table, "kerja_j", f"kerja_j.nama = {raw_input}", {"dilarang_j": "kerja_j.dilarang"}, early=True)
    return f"{coded}coalesce(dilarang_j, {_barred(raw_input)})", "INDIKASI_PEKERJAAN"


def _barred(text: str) -> str:
    # Only the first characters: an occupation has at most 60, and a hostile cell may have a million.
    head = f"lower(left({text}, 200))"
    return f"{head} ~ '{_pattern(BARRED_WORDS)}' and {head} !~ '{_pattern(LIFTING_WORDS)}'"


def _pattern(words: tuple[str, ...]) -> str:
    return rf"\m({'|'.join(word.replace(' ', '[ .]+') for word in words)})\M"
