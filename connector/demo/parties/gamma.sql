-- Partai Gamma's own database: SQLite, names in capitals, codes, a person apart from the membership.
-- Everything here belongs to the party. The connector reads vwAnggota and nothing else. All people are synthetic.

create table TblPerson (
  PersonId      integer primary key,
  NoIdentitas   text,
  JenisId       integer not null,                -- 1 KTP, 2 SIM, 3 KK, 4 passport
  NamaDepan     text,
  NamaTengah    text,
  NamaBelakang  text,
  Sex           integer not null,                -- 1 L, 2 P, 9 not given
  TglLahir      text,                            -- 1900-01-01 00:00:00: nobody knows
  KdPekerjaan   text,
  StatusNikah   text                             -- as the tax office writes it: TK, K0 to K3, J, D
);

create table TblMembership (
  MembershipId  integer primary key,
  PersonId      integer not null,
  NoKTA         text,
  TglMasuk      text,
  TglKeluar     text,
  IsActive      integer not null
);
create index TblMembership_Person on TblMembership (PersonId);

create table TblAlamat (
  PersonId      integer not null,
  JenisAlamat   text not null,                   -- K as on the KTP, D domicile
  Jalan         text,
  RTRW          text,                            -- 003/005, 3-5, 003005
  KdDesaBPS     text,                            -- ten digits of BPS, no code of Kemendagri
  primary key (PersonId, JenisAlamat)
) without rowid;

-- The party's own list of occupations.
create table RefPekerjaan (
  Kd    text primary key,
  Nama  text not null
) without rowid;

insert into RefPekerjaan values
  ('A1', 'APARATUR'), ('A2', 'TNI/POLRI'), ('W1', 'WIRASWASTA'), ('P1', 'PETANI'), ('R1', 'IBU RUMAH TANGGA'),
  ('S1', 'KARYAWAN SWASTA'), ('N1', 'NELAYAN'), ('G1', 'GURU'), ('L1', 'LAIN-LAIN');

-- A member who left stays in the view, and the mapping refuses the row; one whose person is erased leaves it.
create view vwAnggota as
  select m.MembershipId, m.NoKTA, p.NoIdentitas, p.JenisId,
         trim(coalesce(p.NamaDepan, '') || ' ' || coalesce(p.NamaTengah, '') || ' ' || coalesce(p.NamaBelakang, ''))
           as Nama,
         p.Sex, p.TglLahir, r.Nama as Pekerjaan, p.KdPekerjaan, p.StatusNikah, a.Jalan, a.RTRW, a.KdDesaBPS, m.IsActive
    from TblMembership m
    join TblPerson p on p.PersonId = m.PersonId
    left join TblAlamat a on a.PersonId = p.PersonId and a.JenisAlamat = 'K'
    left join RefPekerjaan r on r.Kd = p.KdPekerjaan;
