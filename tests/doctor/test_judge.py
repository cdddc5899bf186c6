"""Every known kind of host gets the finding that explains it, and a command."""

import errno

import msgspec
import pytest
from msgspec.structs import replace

from alcove.local.doctor import Facts, Finding, Report, judge
from alcove.local.doctor.facts import Cgroups, Store, Trial
from tests.doctor import hosts


def one(report: Report, number: str) -> Finding:
    [found] = [finding for finding in report.findings if finding.id == number]
    return found


def missing(report: Report) -> list[str]:
    return [finding.id for finding in report.findings if finding.status == "missing"]


def limited(report: Report) -> set[str]:
    return {finding.id for finding in report.findings if finding.status == "limited"}


@pytest.mark.parametrize(
    ("facts", "number", "fact", "remedy"),
    [
        (hosts.DEBIAN_10_USER, "user-namespace", "unprivileged_userns_clone = 0", "unprivileged_userns_clone = 1"),
        (
            hosts.UBUNTU_2404_USER,
            "mounts",
            "apparmor_restrict_unprivileged_userns = 1",
            "/etc/apparmor.d/alcove-warden",
        ),
        (hosts.DOCKER_ROOT, "kernel", "Seccomp: 2", "seccomp=unconfined"),
        (hosts.DOCKER_ROOT, "user-namespace", "Seccomp: 2", "--cap-add SYS_ADMIN"),
        (hosts.DOCKER_UNCONFINED_ROOT, "mounts", "no CAP_SYS_ADMIN", "--user 1000:1000"),
        (hosts.DOCKER_UNCONFINED_ROOT, "proc", "3 mounts lie over /proc", "systempaths=unconfined"),
        (hosts.DOCKER_MASKED_USER, "proc", "2 mounts lie over /proc", "systempaths=unconfined"),
        (hosts.DOCKER_APPARMOR_USER, "mounts", "docker-default", "apparmor=unconfined"),
        (hosts.PODMAN_ROOTLESS_ROOT, "user-namespace", "has 65536 ids", "--reuid=1000"),
        (
            hosts.NO_USER_NAMESPACES,
            "user-namespace",
            "user.max_user_namespaces = 0",
            "user.max_user_namespaces = 65536",
        ),
        (hosts.NOT_COMPILED_IN, "user-namespace", "no known cause", "dmesg"),
        (hosts.OLD, "kernel", "older than 5.12", "linux-generic-hwe-"),
        (hosts.WSL_1, "kernel", "WSL 1 is not a Linux kernel", "--set-version"),
        (hosts.GVISOR, "kernel", "gVisor", "--runtime=runc"),
        (hosts.CHROOT, "user-namespace", "chroot", "pivot_root"),
    ],
)
def test_what_makes_sessions_impossible_is_named_with_its_remedy(
    facts: Facts, number: str, fact: str, remedy: str
) -> None:
    report = judge(facts)

    found = one(report, number)

    assert not report.ok
    assert found.status == "missing"
    assert fact in found.fact
    assert remedy in found.remedy
    assert found.consequence


@pytest.mark.parametrize(
    ("facts", "lacking"),
    [
        (hosts.DEBIAN_12_ROOT, {"landlock", "host-network"}),
        (hosts.DEBIAN_12_USER, {"landlock", "host-network", "memory", "cpu"}),
        (hosts.UBUNTU_2204_USER, {"landlock", "host-network", "memory", "cpu"}),
        (hosts.UBUNTU_2404_ROOT, {"landlock", "host-network"}),
        (hosts.DOCKER_PRIVILEGED, {"landlock", "host-network", "idmapped-mounts"}),
        (hosts.WSL_2, {"landlock", "host-network", "memory", "cpu"}),
        (hosts.LANDLOCK_OFF, {"landlock", "host-network"}),
    ],
)
def test_what_a_working_host_lacks_is_limited_with_a_consequence(facts: Facts, lacking: set[str]) -> None:
    report = judge(facts)

    assert report.ok
    assert limited(report) == lacking
    for finding in report.findings:
        assert bool(finding.consequence) == (finding.status != "ok")
        assert bool(finding.remedy) == (finding.status != "ok")


def test_ubuntu_24_04_has_three_ways_out() -> None:
    found = one(judge(hosts.UBUNTU_2404_USER), "mounts")

    assert "userns,\\n" in found.remedy
    assert hosts.UBUNTU_2404_USER.launcher in found.remedy
    assert len(found.alternatives) == 2


def test_a_plain_user_under_systemd_gets_the_delegation_command() -> None:
    found = one(judge(hosts.DEBIAN_12_USER), "memory")

    assert found.remedy.startswith("systemd-run --user --scope -p Delegate=yes -- ")
    assert "best_effort" in found.consequence


def test_a_container_limits_itself_where_its_groups_are_read_only() -> None:
    found = one(judge(hosts.DOCKER_MASKED_USER), "memory")

    assert "read-only" in found.fact
    assert "docker run --memory 2g IMAGE" in found.alternatives


def test_landlock_left_out_at_boot_is_told_from_a_kernel_without_it() -> None:
    left_out = one(judge(hosts.LANDLOCK_OFF), "landlock")
    absent = one(judge(replace(hosts.LANDLOCK_OFF, native=hosts.probe(landlock=0))), "landlock")

    assert "left out at boot" in left_out.fact
    assert "lsm=landlock" in left_out.remedy
    assert "ENOSYS" in absent.fact
    assert "metadata.isolation" in absent.consequence


def test_overlays_are_needed_unless_a_session_does_without() -> None:
    without = replace(hosts.DEBIAN_12_ROOT, native=hosts.probe(landlock=6, idmap=1, overlay=errno.ENODEV))

    assert one(judge(without), "overlay").status == "limited"
    needed = one(judge(replace(without, trial=Trial(error="overlay (etc): ENODEV"))), "overlay")
    assert needed.status == "missing"
    assert needed.remedy == "modprobe overlay"


def test_abstract_sockets_decide_about_the_host_s_network() -> None:
    fenced = judge(replace(hosts.DEBIAN_12_ROOT, native=hosts.probe(landlock=6, idmap=1)))

    assert one(fenced, "host-network").status == "ok"
    assert one(judge(hosts.DEBIAN_12_ROOT), "host-network").status == "limited"


def test_a_store_of_somebody_else_s_is_missing() -> None:
    report = judge(replace(hosts.DEBIAN_12_USER, store=Store(error="the store /x belongs to uid 0")))

    assert missing(report) == ["store"]
    assert "ALCOVE_HOME" in one(report, "store").remedy


@pytest.mark.parametrize(
    ("store", "number"),
    [
        (Store(kind="9p"), "store"),
        (Store(kind="nfs4"), "store"),
        (Store(free_bytes=1 << 20), "store"),
        (Store(free_inodes=10), "store"),
        (Store(options=frozenset({"rw", "noexec"})), "store-exec"),
    ],
)
def test_a_poor_place_for_the_store_is_told(store: Store, number: str) -> None:
    assert one(judge(replace(hosts.DEBIAN_12_ROOT, store=store)), number).status == "limited"


@pytest.mark.parametrize(
    ("facts", "number", "spec"),
    [
        (replace(hosts.DEBIAN_12_USER, open_files=1024), "open-files", "open_files=1024"),
        (replace(hosts.DEBIAN_12_USER, processes=100), "user-processes", "pids=98"),
    ],
)
def test_hard_rlimits_below_a_session_s_are_told(facts: Facts, number: str, spec: str) -> None:
    found = one(judge(facts), number)

    assert found.status == "limited"
    assert spec in found.consequence
    assert found.remedy.startswith("sudo prlimit --pid $$ --n")


def test_few_process_numbers_and_namespaces_are_told() -> None:
    sysctls = {"kernel.pid_max": 32_768, "user.max_net_namespaces": 100, "user.max_user_namespaces": 60_000}

    report = judge(replace(hosts.DEBIAN_12_ROOT, sysctls=sysctls))

    assert "32 sessions" in one(report, "pid-max").consequence
    assert "user.max_net_namespaces = 100" in one(report, "namespaces").fact


def test_no_cgroups_at_all() -> None:
    found = one(judge(replace(hosts.DEBIAN_12_ROOT, cgroups=Cgroups(mounted=False))), "memory")

    assert "mount -t cgroup2" in found.remedy


def test_without_the_launcher_nothing_is_guessed() -> None:
    report = judge(replace(hosts.DEBIAN_12_ROOT, native={}, launcher_error="not installed", trial=None))

    assert missing(report) == ["launcher"]
    assert "landlock" not in {finding.id for finding in report.findings}


def test_what_an_earlier_refusal_made_pointless_is_left_out() -> None:
    report = judge(hosts.NO_USER_NAMESPACES)

    assert missing(report) == ["user-namespace"]
    assert not {"pid-namespace", "proc", "overlay"} & {finding.id for finding in report.findings}


def test_a_failed_trial_names_its_cause_and_gives_no_circular_advice() -> None:
    error = "mount (proc): EPERM; `alcove doctor` tells what this host lacks and how to fix it"

    alone = judge(replace(hosts.DEBIAN_12_ROOT, trial=Trial(error=error)))
    explained = judge(replace(hosts.DOCKER_MASKED_USER, trial=Trial(error=error)))

    assert one(alone, "session").fact == "mount (proc): EPERM"
    assert "every step by itself succeeded" in one(alone, "session").consequence
    assert "because of: proc" in one(explained, "session").consequence
    assert not alone.ok


def test_root_is_not_told_to_use_sudo() -> None:
    facts = replace(hosts.DEBIAN_12_ROOT, sysctls={"kernel.pid_max": 4000})

    assert all("sudo" not in finding.remedy for finding in judge(facts).findings)
    assert "sudo" in one(judge(replace(facts, uid=1000)), "pid-max").remedy


def test_a_report_is_plain_data() -> None:
    report = judge(hosts.DOCKER_ROOT)

    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_every_refusal_of_every_step_is_explained_and_never_raises() -> None:
    for step in hosts.STEPS:
        for error in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.ENOSPC, errno.E2BIG, 524):
            for facts in (hosts.DEBIAN_12_ROOT, hosts.DEBIAN_12_USER, hosts.DOCKER_ROOT, hosts.OLD, hosts.WSL_1):
                report = judge(replace(facts, native=hosts.probe(**{step: error})))

                assert all(finding.remedy for finding in report.findings if finding.status == "limited")
