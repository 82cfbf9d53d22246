"""A running daemon gives no secret away: not in the process list, an environment, a log, a metric or a core dump."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from psycopg.conninfo import make_conninfo
from workbench import Workbench

Make = Callable[..., Workbench]
PASSWORDS = {"staging": "sandi-Pementasan-4471", "uji": "sandi-Partai-9912"}
NIK = "9171991501904321"


def family(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def of(pid: int, name: str) -> str:
    with suppress(OSError):
        return (Path("/proc") / str(pid) / name).read_bytes().decode(errors="replace")
    return ""


def hide(bench: Workbench) -> None:
    """Move the dsns, with passwords, into files; the servers here trust everybody and ask for none."""
    text = bench.config_path.read_text()
    known = {"staging": bench.staging_dsn, "uji": bench.parties["uji"].daemon_dsn}
    for name, dsn in known.items():
        file = bench.folder / f"{name}.dsn"
        file.touch(mode=0o600)
        file.write_text(make_conninfo(dsn, password=PASSWORDS[name]))
        text = text.replace(f"'{dsn}'", f"'${{file:{name}.dsn}}'")
    assert text.count("${file:") == 3
    bench.config_path.write_text(text)


def test_no_secret_and_no_person_leaves_the_daemon(make_workbench: Make) -> None:
    bench = make_workbench("uji", people=30)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    bench.web = f"{{listen: '127.0.0.1:{port}'}}"
    bench.write_config()
    hide(bench)
    daemon = bench.start()
    bench.await_state("uji", "streaming")
    bench.parties["uji"].run(f"update public.orang set nik = '{NIK}' where orang_id = 1")
    # Refused, an error at the view, and a good row again: each may tempt somebody to quote a cell.
    bench.parties["uji"].run(f"update public.orang set nik = '{NIK}X9' where orang_id = 2")
    bench.check("uji")
    told = [
        bench.connector(*verb)
        for verb in (("status", "--json"), ("quarantine", "list"), ("top",), ("reload", "--json"))
    ]
    bench.wait_until(lambda: len(list(family(daemon.process.pid))) >= 5, "every process is up")
    processes = list(family(daemon.process.pid))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        page = answer.read().decode()
    said = {
        "process list": "".join(of(pid, "cmdline") for pid in processes),
        "environments": "".join(of(pid, "environ") for pid in processes),
        "log": daemon.log.read_text(),
        "metrics": page,
        "verbs": "".join(one.stdout + one.stderr for one in told),
    }
    assert all(said.values())
    for place, text in said.items():
        for secret in (*PASSWORDS.values(), NIK, "a" * 64):
            assert secret not in text, place
    # No core file, of whichever process.
    limits = [re.search(r"Max core file size +(\S+) +(\S+)", of(pid, "limits")) for pid in processes]
    assert [(found[1], found[2]) for found in limits if found] == [("0", "0")] * len(processes)
    # And no more memory and files than the party's share.
    own = of(daemon.worker_pid("uji"), "limits")
    assert re.search(rf"Max data size +{1024 << 20} ", own)
    assert re.search(r"Max open files +256 ", own)


def test_a_process_that_holds_rows_cannot_be_dumped() -> None:
    code = (
        "import ctypes; from connector.runtime import confine; confine.undumpable();"
        " print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_what_does_not_fit_is_an_error_of_that_process_alone() -> None:
    code = (
        "from connector.runtime import confine; confine.bound(300 << 20)\n"
        "try: bytearray(400 << 20)\n"
        "except MemoryError: print('refused', len(bytearray(50 << 20)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", str(50 << 20)]
