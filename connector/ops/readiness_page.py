"""The readiness report as one HTML page, in Indonesian, without a script or anything from elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from html import escape

from connector.ops.readiness import Regency, Report

WIB = timezone(timedelta(hours=7), "WIB")
# Bars end at twice the minimum: what lies above it decides nothing.
RATIO_MAX = 2.0
BAR_HEIGHT, BAR_WIDTH, LABEL_WIDTH = 12, 480, 230

_NO_VERDICT = "Ini hitungan dari data yang diterima, bukan keputusan KPU: status MS, BMS dan TMS hanya ditetapkan KPU."
_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#1a1a1a}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%}
td,th{padding:.2rem .5rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.ya{color:#176b2c}.tidak{color:#a11}.tipis{color:#8a5a00}
p.kecil,footer{color:#555;font-size:.85rem}svg text{font:10px system-ui,sans-serif}
"""


def page(report: Report) -> str:
    """The whole page."""
    counted = f"anggota dihitung {_time(report.counted_at)}"
    if report.counting:
        counted += ", sebagian sedang dihitung ulang"
    parts = [
        f"<h1>Kesiapan data: {escape(report.party)}</h1>",
        f'<p class="kecil">Keadaan {_time(report.at)}; {counted}. {_NO_VERDICT}</p>',
        _stages(report),
        _requirements(report),
        _provinces(report),
        "<h2>Anggota per kabupaten/kota terhadap jumlah minimal</h2>",
        chart(report.regencies),
        _regencies(report.regencies),
        _refusals(report),
        _unmapped(report),
        _documents(report),
        _freshness(report),
        _receipt(report),
    ]
    title = f"Kesiapan data {escape(report.party)}"
    return (
        f'<!doctype html>\n<html lang="id"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def chart(regencies: Sequence[Regency]) -> str:
    """Bars of members against the minimum, the smallest cushion first; the line is the minimum."""
    height = BAR_HEIGHT * len(regencies) + 20
    middle = LABEL_WIDTH + BAR_WIDTH / RATIO_MAX
    bars = [_bar(one, 20 + BAR_HEIGHT * place) for place, one in enumerate(regencies)]
    return (
        f'<svg role="img" width="{LABEL_WIDTH + BAR_WIDTH + 90}" height="{height}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>Anggota bersih terhadap minimal</title>{''.join(bars)}"
        f'<line x1="{middle:g}" x2="{middle:g}" y1="14" y2="{height}" stroke="#333" stroke-dasharray="3 2"/>'
        f'<text x="{middle:g}" y="11" text-anchor="middle">minimal</text></svg>'
    )


def _bar(one: Regency, y: int) -> str:
    width = BAR_WIDTH * min(one.bantalan, RATIO_MAX) / RATIO_MAX
    color = "#b3261e" if one.selisih < 0 else "#c98a00" if one.tipis else "#2e7d32"
    return (
        f'<text x="{LABEL_WIDTH - 4}" y="{y + 9}" text-anchor="end">{escape(one.nama)}</text>'
        f'<rect x="{LABEL_WIDTH}" y="{y + 1}" width="{width:.1f}" height="{BAR_HEIGHT - 2}" fill="{color}"/>'
        f'<text x="{LABEL_WIDTH + BAR_WIDTH + 4}" y="{y + 9}">{one.bersih:,} / {one.minimal:,}</text>'
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> str:
    right = frozenset(numbers)

    def line(cells: Sequence[object], tag: str) -> str:
        made = (
            f"<{tag}{' class=n' if place in right else ''}>{_cell(cell)}</{tag}>" for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    return f"<table>{line(columns, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


class _Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _cell(value: object) -> str:
    if isinstance(value, _Markup):
        return value
    if value is None:
        return "-"
    return escape(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))


def _yes(flag: bool) -> _Markup:
    return _Markup('<span class="ya">ya</span>' if flag else '<span class="tidak">belum</span>')


def _time(point: datetime | None) -> str:
    return "belum pernah" if point is None else f"{point.astimezone(WIB):%d-%m-%Y %H:%M} WIB"


def _stages(report: Report) -> str:
    said = [
        f"{escape(stage.tahapan)} ditutup {_time(stage.ditutup)}, {(stage.ditutup - report.at).days} hari lagi"
        for stage in report.stages
    ]
    return f"<p>Tahapan: {'; '.join(said)}.</p>" if said else ""


def _requirements(report: Report) -> str:
    if not report.requirements:
        return "<p>Ambang partai lokal Aceh diatur tersendiri: yang ditampilkan hanya jumlah.</p>"
    rows = [
        (one.syarat, f"{one.perlu:g}", f"{one.ada:g}", _yes(one.terpenuhi), one.dasar) for one in report.requirements
    ]
    return "<h2>Syarat</h2>" + _table(("syarat", "perlu", "ada", "terpenuhi", "dasar"), rows, (1, 2))


def _provinces(report: Report) -> str:
    names = {one.kode: one.nama for one in report.regencies}
    rows = [
        (
            f"{one.kode} {one.nama}", one.minimal_kabkota, one.memenuhi, one.selisih, _yes(one.selisih >= 0),
            ", ".join(names.get(kode, kode) for kode in one.jalur) or None, one.kurang_anggota or None, one.dasar,
        )
        for one in report.provinces
    ]  # fmt: skip
    columns = (
        "provinsi", "kab/kota perlu", "memenuhi", "selisih", "cukup", "jalur terdekat", "anggota kurang", "dasar",
    )  # fmt: skip
    return "<h2>Provinsi dan jalur terdekat ke 75 %</h2>" + _table(columns, rows, (1, 2, 3, 6))


def _regencies(regencies: Sequence[Regency]) -> str:
    rows = [
        (
            f"{one.kode} {one.nama}", one.penduduk, one.minimal, one.diterima, one.identik, one.potensi, one.eksternal,
            one.kta_ganda, one.usia, one.pekerjaan, one.nik, one.bersih, one.selisih,
            _cushion(one),
            ", ".join(one.kurang) or None, one.sampel, one.dasar,
        )
        for one in regencies
    ]  # fmt: skip
    columns = (
        "kabupaten/kota", "penduduk", "minimal", "diterima", "ganda identik", "potensi ganda", "ganda eksternal",
        "KTA ganda", "usia", "pekerjaan", "NIK", "bersih", "selisih", "bantalan", "masih kurang", "sampel faktual",
        "dasar",
    )  # fmt: skip
    return _table(columns, rows, range(1, 14))


def _cushion(one: Regency) -> _Markup:
    kind = "tipis" if one.tipis else "ya" if one.selisih >= 0 else "tidak"
    return _Markup(f'<span class="{kind}">{one.bantalan:.0%}</span>')


def _refusals(report: Report) -> str:
    rows = [
        (one.entity, one.reason, one.rows, _time(one.last_seen), ", ".join(one.keys), one.indonesian)
        for one in report.refusals
    ]
    columns = ("entitas", "alasan", "baris", "terakhir", "kunci (sebagian)", "yang perlu dilakukan")
    return "<h2>Baris yang ditolak</h2>" + (_table(columns, rows, (2,)) if rows else "<p>Tidak ada.</p>")


def _freshness(report: Report) -> str:
    rows = [
        (
            one.entity, one.state if one.reason is None else f"{one.state} ({one.reason})", _time(one.last_batch_at),
            one.view_rows, _time(one.view_counted_at), one.live_rows, one.refused_rows, one.sipol_rows, one.added_day,
            one.changed_day, one.removed_day, one.mapping_version,
        )
        for one in report.freshness
    ]  # fmt: skip
    columns = (
        "entitas", "keadaan", "batch terakhir", "baris view", "dihitung", "diterima", "ditolak", "di Sipol",
        "masuk 24 jam", "berubah", "keluar", "pemetaan",
    )  # fmt: skip
    return "<h2>Kemutakhiran dan tiga hitungan</h2>" + _table(columns, rows, (3, 5, 6, 7, 8, 9, 10))


def _unmapped(report: Report) -> str:
    if not report.unmapped:
        return ""
    rows = [(one.entity, one.column, one.reason, one.rows) for one in report.unmapped]
    return "<h2>Kode dan wilayah yang tidak dikenal pemetaan</h2>" + _table(
        ("entitas", "kolom", "alasan", "baris"), rows, (3,)
    )


def _documents(report: Report) -> str:
    if not report.documents:
        return ""
    rows = [(one.jenis, one.ada, one.tersedia) for one in report.documents]
    return "<h2>Dokumen</h2>" + _table(("jenis", "tercatat", "berkas tersedia"), rows, (1, 2))


def _receipt(report: Report) -> str:
    if not report.receipt:
        return ""
    seq, digest = report.receipt["seq"], escape(str(report.receipt["hash"]))
    return (
        f"<footer><p>Tanda terima: catatan audit {escape(report.party)} nomor {seq}, hash <code>{digest}</code>. Simpan"
        f" baris ini; <code>connector audit verify --noted {escape(report.party)}#{seq}={digest}</code> membuktikan"
        " bahwa catatan sampai nomor itu tidak berubah.</p></footer>"
    )
