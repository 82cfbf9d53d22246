-- Partai Delta's own database: MariaDB, as a small web application would have it. A statement ends with its line.
-- Everything here belongs to the party. The connector reads the two views and no table. All people are synthetic.

create table tb_pekerjaan (
  kd_kerja  smallint unsigned primary key,
  nama      varchar(60) not null
) engine = InnoDB;

create table tb_anggota (
  id_anggota    int unsigned primary key,
  no_ktp        varchar(24),
  no_kta        varchar(20),
  nama          varchar(120),
  jk            char(1),
  tempat_lahir  varchar(60),
  tgl_lahir     date,
  kd_kerja      smallint unsigned,
  kawin         tinyint unsigned,
  alamat        varchar(160),
  rt            smallint(3) unsigned zerofill,
  rw            smallint(3) unsigned zerofill,
  kel_kode      char(10),
  aktif         tinyint(1) not null,
  diubah        datetime(6),
  key (kd_kerja)
) engine = InnoDB;

create table tb_pengurus (
  id_papan    int unsigned not null,
  id_anggota  int unsigned not null,
  jabatan     varchar(60),
  primary key (id_papan, id_anggota),
  key (id_anggota)
) engine = InnoDB;

insert into tb_pekerjaan values
  (1, 'BELUM BEKERJA'), (2, 'IBU RUMAH TANGGA'), (3, 'PELAJAR'), (4, 'PENSIUNAN'), (5, 'PNS'), (6, 'TNI'), (7, 'POLRI'),
  (9, 'PETANI'), (11, 'NELAYAN'), (15, 'KARYAWAN SWASTA'), (19, 'BURUH HARIAN'), (65, 'DOSEN'), (84, 'PERANGKAT DESA'),
  (88, 'WIRASWASTA');

create view v_anggota as
  select a.id_anggota, a.no_ktp, a.no_kta, a.nama, a.jk, a.tempat_lahir, a.tgl_lahir, a.kd_kerja, k.nama as nama_kerja,
         a.kawin, a.alamat, a.rt, a.rw, a.kel_kode
    from tb_anggota a left join tb_pekerjaan k on k.kd_kerja = a.kd_kerja
   where a.aktif = 1;

create view v_pengurus as
  select p.id_papan, p.id_anggota, p.jabatan, a.nama, a.jk
    from tb_pengurus p join tb_anggota a on a.id_anggota = p.id_anggota
   where a.aktif = 1;
