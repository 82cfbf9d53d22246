"""The catalogue of codes a row can get: why it was not staged, or what KPU should look at.

A code is a promise: scripts, reports and audit entries carry it, so it is never renamed or reused. The sentences are
for a party's staff: they say what to do, and never quote a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """Letters of the domain's rules."""

    REJECTED = "T"  # tolak: the row goes to quarantine
    FINDING = "I"  # indikasi: the row is staged with this finding
    NORMALISED = "N"  # the row is staged with a value of ours in one cell


@dataclass(frozen=True, slots=True)
class Reason:
    """One code with what it asks of the party, in Indonesian and English."""

    code: str
    severity: Severity
    indonesian: str
    english: str
    declarable: bool = False  # a mapping's `when` may name it


def _rejected(code: str, indonesian: str, english: str, *, declarable: bool = False) -> Reason:
    return Reason(code, Severity.REJECTED, indonesian, english, declarable)


def _finding(code: str, indonesian: str, english: str) -> Reason:
    return Reason(code, Severity.FINDING, indonesian, english)


def _normalised(code: str, indonesian: str, english: str) -> Reason:
    return Reason(code, Severity.NORMALISED, indonesian, english)


_ALL = (
    # The row as a whole.
    _rejected(
        "NULL_KEY",
        "Kolom kunci kosong; isi kolom kunci pada view.",
        "A key column is empty; fill it in the view.",
    ),
    _rejected(
        "DUPLICATE_KEY",
        "Kunci yang sama muncul lebih dari sekali pada view; perbaiki view agar satu kunci satu baris.",
        "The same key stands in the view more than once; change the view so that a key gives one row.",
    ),
    _rejected(
        "INVALID_UTF8",
        "Ada karakter rusak (bukan UTF-8); perbaiki teks di basis data partai.",
        "A character is broken (not UTF-8); correct the text in the party's database.",
    ),
    _rejected(
        "NUL_CHARACTER",
        "Ada karakter NUL di dalam teks; hapus karakter itu di basis data partai.",
        "A text holds a NUL character; remove it in the party's database.",
    ),
    _rejected(
        "CELL_TOO_LARGE",
        "Isi satu kolom terlalu besar; periksa isinya di basis data partai.",
        "One cell is too large; look at its content in the party's database.",
    ),
    _rejected(
        "ROW_EXCLUDED",
        "Baris tidak memenuhi syarat `when` pada berkas pemetaan; saring di view bila memang tidak dikirim.",
        "The row does not meet the mapping's `when`; filter it in the view if it is not meant to be sent.",
        declarable=True,
    ),
    _rejected(
        "ROW_INACTIVE",
        "Baris bertanda tidak aktif; saring di view agar dihitung sebagai penghapusan.",
        "The row is marked inactive; filter it in the view so that it counts as a deletion.",
        declarable=True,
    ),
    _rejected(
        "IDENTITY_KIND",
        "Nomor identitas bukan NIK (misalnya SIM atau paspor); mintakan NIK orang tersebut.",
        "The identity number is not a NIK (a driving licence or passport, say); obtain the person's NIK.",
        declarable=True,
    ),
    # A cell.
    _rejected("REQUIRED", "Isian wajib masih kosong; lengkapi.", "A required value is empty; fill it in."),
    _rejected(
        "TOO_LONG",
        "Isian melebihi panjang kolom; singkatkan.",
        "The value is longer than the column allows; shorten it.",
    ),
    _rejected(
        "CODE_UNKNOWN",
        "Kode tidak ada dalam daftar `codes` berkas pemetaan; betulkan kode atau tambahkan ke daftar.",
        "The code is not in the mapping's `codes`; correct the code or add it to the list.",
    ),
    _rejected(
        "DATE_FORMAT",
        "Tanggal tidak tertulis menurut format yang dinyatakan, atau tidak ada di kalender.",
        "The date is not written in the declared format, or is not in the calendar.",
    ),
    _rejected(
        "DATE_RANGE",
        "Tanggal lahir sebelum 1900 atau di masa depan; periksa.",
        "The birth date is before 1900 or in the future; check it.",
    ),
    _rejected(
        "NUMBER_FORMAT",
        "Bukan bilangan bulat, negatif, atau terlalu besar untuk kolom ini.",
        "Not a whole number, negative, or too large for this column.",
    ),
    _rejected(
        "NUMBER_DESTROYED",
        "Angka sudah dibulatkan lembar kerja (misalnya 3.27E+15) dan tidak dapat dipulihkan; isi ulang dari sumbernya.",
        "A spreadsheet rounded this number (3.27E+15, say) and it cannot be recovered; enter it again from its source.",
    ),
    _rejected(
        "DIGEST_FORMAT",
        "SHA-256 harus 64 digit heksadesimal.",
        "A SHA-256 must be 64 hexadecimal digits.",
    ),
    _rejected(
        "RTRW_FORMAT",
        "RT/RW tidak terbaca; tulis seperti 003/005, 3-5 atau 003005.",
        "RT/RW cannot be read; write it like 003/005, 3-5 or 003005.",
    ),
    _rejected(
        "NIK_FORMAT",
        "NIK bukan 16 digit angka (spasi, titik dan tanda hubung boleh); isi ulang dari KTP-el.",
        "The NIK is not 16 digits (blanks, dots and hyphens may stand in it); enter it again from the KTP-el.",
    ),
    _rejected(
        "NIK_DATE",
        "Tanggal lahir di dalam NIK (digit 7 sampai 12) tidak ada di kalender; periksa NIK.",
        "The birth date inside the NIK (digits 7 to 12) is not in the calendar; check the NIK.",
    ),
    _rejected(
        "NIK_SERIAL",
        "NIK berakhir dengan 0000; periksa NIK.",
        "The NIK ends in 0000; check it.",
    ),
    _rejected(
        "REGION_UNKNOWN",
        "Wilayah tidak ada dalam daftar Kemendagri; periksa kode atau nama, dan sistem kode yang dinyatakan.",
        "The region is not in the Kemendagri list; check the code or name, and the code system that is declared.",
    ),
    _rejected(
        "REGION_AMBIGUOUS",
        "Nama wilayah ini dipakai kabupaten dan kota; tulis jenisnya, misalnya Kab. Bogor atau Kota Bogor.",
        "This name belongs to a kabupaten and a kota; write which one, such as Kab. Bogor or Kota Bogor.",
    ),
    _rejected(
        "REGION_LEVEL",
        "Kode wilayah tidak sesuai tingkat; untuk anggota minimal sampai kecamatan.",
        "The region does not fit the level; a member's region must reach down to the district.",
    ),
    # What KPU looks at.
    _finding(
        "NIK_TANGGAL",
        "Tanggal lahir berbeda dari tanggal di dalam NIK; cocokkan dengan KTP-el.",
        "The birth date differs from the one in the NIK; compare with the KTP-el.",
    ),
    _finding(
        "NIK_KELAMIN",
        "Jenis kelamin berbeda dari yang tersirat di NIK; cocokkan dengan KTP-el.",
        "The sex differs from the one in the NIK; compare with the KTP-el.",
    ),
    _finding(
        "INDIKASI_NIK_WILAYAH",
        "Enam digit awal NIK tidak ada dalam daftar wilayah kini maupun terdahulu; periksa NIK.",
        "The first six digits of the NIK are in no current or former list of regions; check the NIK.",
    ),
    _finding(
        "INDIKASI_USIA",
        "Belum 17 tahun dan tidak tercatat sudah atau pernah kawin; lengkapi status perkawinan atau tarik data.",
        "Under 17 and not recorded as married or formerly married; give the marital status or withdraw the row.",
    ),
    _finding(
        "USIA_SAAT_INI",
        "Hari ini belum 17 tahun, tetapi genap 17 tahun sebelum tahapan ditutup; tidak perlu tindakan.",
        "Not 17 today, but 17 before the stage closes; nothing to be done.",
    ),
    _finding(
        "INDIKASI_PEKERJAAN",
        "Pekerjaan termasuk yang dilarang menjadi anggota partai; mintakan surat pernyataan atau tarik data.",
        "The occupation is one that may not join a party; obtain a statement or withdraw the row.",
    ),
    _finding(
        "NAMA_PANJANG",
        "Nama lebih dari 60 karakter; cocokkan dengan KTP-el.",
        "The name is longer than 60 characters; compare with the KTP-el.",
    ),
    _finding(
        "NAMA_ANGKA",
        "Nama mengandung angka; cocokkan dengan KTP-el.",
        "The name holds digits; compare with the KTP-el.",
    ),
    _finding(
        "KELURAHAN_TIDAK_DIKENAL",
        "Kelurahan/desa tidak ada dalam daftar Kemendagri; anggota tetap dihitung di kecamatannya.",
        "The village is not in the Kemendagri list; the member still counts in the district.",
    ),
    _finding(
        "TANGGAL_SK_DEPAN",
        "Tanggal SK di masa depan; periksa.",
        "The decree is dated in the future; check it.",
    ),
    # What KPU looks at in several rows together (staging/findings.py).
    _finding(
        "GANDA_IDENTIK",
        "Orang yang sama (NIK, nama, tanggal lahir) tercatat lebih dari sekali di partai ini; hanya satu yang "
        "dihitung, hapus salinannya.",
        "The same person (NIK, name, birth date) stands in this party more than once; one counts, remove the copies.",
    ),
    _finding(
        "GANDA_POTENSI",
        "NIK yang sama dengan nama atau tanggal lahir lain, atau orang yang sama dengan NIK lain; cocokkan "
        "dengan KTP-el.",
        "One NIK with another name or birth date, or one person with another NIK; compare with the KTP-el.",
    ),
    _finding(
        "GANDA_EKSTERNAL",
        "NIK ini juga dikirim partai lain; mintakan surat pernyataan dari anggota tersebut.",
        "Another party sent this NIK too; obtain a statement from the member.",
    ),
    _finding(
        "KTA_GANDA",
        "Nomor KTA yang sama dipakai orang berbeda; periksa nomor KTA.",
        "Different persons have this card number; check it.",
    ),
    _finding(
        "DUALISME",
        "Ada dua kepengurusan aktif untuk satu wilayah; akhiri yang tidak berlaku.",
        "Two boards of one region are active; end the one that is not in force.",
    ),
    _finding(
        "DOKUMEN_KURANG",
        "Anggota belum punya berkas KTA atau berkas KTP-el/KK; lengkapi berkasnya.",
        "The member lacks a document of the card, or of the KTP-el or KK; add it.",
    ),
    # The same, of the party's organisation (staging/organisation.py).
    _finding(
        "SK_BERAKHIR",
        "Masa berlaku SK kepengurusan habis sebelum tahapan ditutup; terbitkan SK baru.",
        "The board's decree ends before the stage closes; issue a new one.",
    ),
    _finding(
        "SUSUNAN_TANPA_SK",
        "Nama atau jabatan pengurus berubah tetapi nomor SK tetap; cocokkan dengan SK atau isi nomor SK baru.",
        "An officer's name or post changed under the same decree; compare with it, or give the new one's number.",
    ),
    _finding(
        "RANGKAP_PENGURUS",
        "Satu orang duduk di dua kepengurusan aktif pada tingkat yang sama; tentukan salah satu.",
        "One person sits on two active boards of the same level; keep one.",
    ),
    _finding(
        "PENGURUS_BUKAN_ANGGOTA",
        "NIK pengurus tidak ada di antara anggota yang diterima; kirim data anggotanya atau betulkan NIK.",
        "The officer's NIK is not among the staged members; send the member's row or correct the NIK.",
    ),
    _finding(
        "PENGURUS_PEKERJAAN",
        "Pekerjaan anggota ini dilarang bagi pengurus partai; mintakan surat pernyataan atau ganti pengurus.",
        "This member's occupation may not sit on a board; obtain a statement or replace the officer.",
    ),
    _finding(
        "PENGURUS_TANPA_NIK",
        "Pengurus pusat, provinsi, dan kabupaten/kota wajib ber-NIK; lengkapi NIK.",
        "An officer of the centre, a province or a regency needs a NIK; fill it in.",
    ),
    _finding(
        "PENGURUS_TANPA_KEPENGURUSAN",
        "Kepengurusan yang dirujuk tidak ada di antara yang diterima; kirim kepengurusannya atau betulkan kuncinya.",
        "The board this officer names is not among the staged ones; send the board or correct the key.",
    ),
    _finding(
        "KANTOR_MASA_BERLAKU",
        "Hak pakai kantor berakhir sebelum tahapan terakhir, atau tanggalnya kosong; perpanjang atau lengkapi.",
        "The right to the office ends before the last stage, or has no date; extend it or fill the date in.",
    ),
    _finding(
        "REKENING_ATAS_NAMA",
        "Nama pemilik rekening tidak memuat nama partai; rekening harus atas nama partai.",
        "The account's holder does not name the party; an account must be in the party's name.",
    ),
    # What we changed.
    _normalised(
        "WILAYAH_LAMA",
        "Kode wilayah lama diganti dengan kode yang berlaku; perbarui di basis data partai.",
        "A former region code was replaced by the current one; update it in the party's database.",
    ),
    _normalised(
        "KELAMIN_DARI_NIK",
        "Jenis kelamin diambil dari NIK karena kolomnya kosong atau tidak jelas.",
        "The sex was taken from the NIK because its cell was empty or unclear.",
    ),
    _normalised(
        "NILAI_DIKOSONGKAN",
        "Satu isian tidak dapat dipakai dan dikosongkan, sesuai berkas pemetaan.",
        "One value could not be used and was left empty, as the mapping says.",
    ),
    _normalised(
        "NILAI_DIGANTI",
        "Satu isian tidak dapat dipakai dan diganti nilai baku berkas pemetaan.",
        "One value could not be used and was replaced by the mapping's default.",
    ),
)

REASONS = {reason.code: reason for reason in _ALL}
DECLARABLE = tuple(reason.code for reason in _ALL if reason.declarable)
REJECTING = frozenset(reason.code for reason in _ALL if reason.severity is Severity.REJECTED)
FINDINGS = tuple(reason.code for reason in _ALL if reason.severity is not Severity.REJECTED)
