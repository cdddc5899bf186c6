import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import fetch
from bench.allowed import descriptors, entries, resident
from bench.cases import CASES, egress
from bench.contender import Finished, WrongResultError, run
from bench.ground import Ground
from bench.measure import Options, run_case
from bench.origin import ADDRESS, NAME, serving
from bench.peers import peers
from bench.peers.bare import Bare
from bench.peers.slirp4netns import Slirp4netns
from bench.pss import OwnEyes
from bench.targets import DIRECT

SIZE = 40_000_000  # more than the server's body, so that it goes out in pieces


def ground(place: Path) -> Ground:
    return Ground(scratch=place, bare=Bare(), peers=[], alcove=None, pss=OwnEyes(), quick=True)


def silent(_done: int, _rounds: int) -> None:
    return


def test_the_server_greets_and_sends_as_much_as_was_asked_for() -> None:
    with serving() as origin:
        for place in (origin.own, origin.loopback):
            with socket.create_connection((place.host, place.greeting)) as connection:
                assert connection.recv(10) == b"+"
            with socket.create_connection((place.host, place.http)) as connection:
                connection.sendall(b"GET /5 HTTP/1.1\r\n\r\n")
                head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
                assert (head.splitlines()[1], body) == (b"Content-Length: 5", bytes(5))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((origin.own.host, origin.own.http))


def test_a_client_times_itself_and_counts_every_byte() -> None:
    with serving() as origin:
        times = egress.client(run, "latency", ADDRESS, origin.own.greeting, origin.own.http, 3)
        assert set(times) == {"connect", "get"}
        assert all(value > 0 for value in times.values())
        assert set(egress.client(run, "latency", ADDRESS, 0, origin.own.http, 3)) == {"get"}
        assert egress.client(run, "download", ADDRESS, origin.own.http, 3, SIZE)["throughput"] > 0


def test_a_download_that_is_cut_short_is_not_measured() -> None:
    with socket.create_server((ADDRESS, 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nxx")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SystemExit, match="3 bytes are missing"):
            fetch.get(listener.getsockname()[:2], NAME, 5)
        thread.join()


def test_a_client_that_fails_is_not_measured() -> None:
    def failing(_command: Sequence[str]) -> Finished:
        return Finished(0.0, 1, b"", b"no greeting")

    with pytest.raises(WrongResultError, match="no greeting"):
        egress.client(failing, "latency", ADDRESS, 1, 2, 3)


@pytest.mark.parametrize("case", ["egress-latency", "egress-one", "egress-eight"])
def test_a_case_runs_over_the_floor_alone(case: str, tmp_path: Path) -> None:
    chosen = next(known for known in CASES if known.id == case)
    row = run_case(chosen, ground(tmp_path), Options(quick=True, rounds=1, parent=tmp_path), silent)
    assert not row.failures
    assert {found.contender for found in row.series} == {DIRECT}


def test_only_what_can_reach_the_server_takes_part(tmp_path: Path) -> None:
    slirp = Slirp4netns()
    place = Ground(tmp_path, Bare(), peers(tmp_path)[:-1], None, OwnEyes(), quick=True, networks=[slirp])
    assert [runtime.name for runtime in place.reaching()] == ["subprocess.run", "sandlock", "slirp4netns"]
    assert slirp not in place.runtimes()


def test_both_ports_of_the_server_are_allowed_and_nothing_else() -> None:
    with serving() as origin:
        assert entries(origin) == (f"{NAME}:{origin.own.greeting}", f"{NAME}:{origin.own.http}")


def test_what_a_process_keeps_is_counted() -> None:
    before = descriptors(os.getpid())
    with socket.socket():
        assert descriptors(os.getpid()) == before + 1
    assert resident(os.getpid()) > 1_000_000
