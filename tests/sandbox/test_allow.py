"""What a sandbox may reach, from Python: given, changed while it lives, and told."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove import AsyncSandbox, InvalidRequest, Limited, LocalSandboxConfig, Sandbox, Unrestricted, Unsupported
from alcove.egress.audit import Record
from alcove.egress.config import EgressConfig
from alcove.testing import FakeBackend
from tests import keeping
from tests.greeting import ADDRESS, HELLO, NAME, Greeter

pytestmark = pytest.mark.user


@pytest.fixture
def greeter() -> Iterator[Greeter]:
    with Greeter() as made:
        yield made


@pytest.fixture
def net(config: LocalSandboxConfig, greeter: Greeter) -> Iterator[LocalSandboxConfig]:
    """Yield a configuration that knows the greeter by name and by preset."""
    yield LocalSandboxConfig(
        root_dir=config.root_dir,
        egress=EgressConfig(allow_addresses=(f"{ADDRESS}/32",), hosts=((NAME, (ADDRESS,)),)),
        presets=(("greeter", (greeter.entry,)),),
    )
    assert config.root_dir
    keeping.end(Path(config.root_dir))


def told(records: list[Record]) -> list[tuple[str, str, bool]]:
    return [(record.kind, record.name, record.allowed) for record in records]


def test_what_is_allowed_and_what_is_not(net: LocalSandboxConfig, greeter: Greeter) -> None:
    with Sandbox(allow=["other.test"], config=net) as box:
        assert not box.run(["getent", "hosts", "nowhere.test"]).success
        assert box.allow(greeter.entry).metadata["allowed_hosts"] == f"other.test {greeter.entry}"
        assert box.run(greeter.ask, check=True).stdout == HELLO
        assert box.deny("other.test", greeter.entry).metadata["network"] == "none"
        assert not box.run(greeter.ask).success
        assert [entry for entry in told(list(box.network_log())) if entry[0] != "policy"] == [
            ("dns", "nowhere.test", False),
            ("connect", NAME, True),
            ("dns", NAME, False),
        ]
    assert greeter.greeted == 1


def test_presets(net: LocalSandboxConfig, greeter: Greeter) -> None:
    with Sandbox(allow=["@greeter"], config=net) as box:
        assert box.run(greeter.ask, check=True).stdout == HELLO
        assert box.deny("@greeter").metadata["network"] == "none"
        assert box.allow("@greeter").metadata["allowed_hosts"] == greeter.entry
    with pytest.raises(InvalidRequest, match="there is no preset `@greter`"):
        Sandbox(allow=["@greter"], config=net)


def test_a_whole_policy(net: LocalSandboxConfig, greeter: Greeter) -> None:
    with Sandbox(config=net) as box:
        assert box.network(Limited([greeter.entry])).metadata["network"] == "limited"
        assert box.run(greeter.ask, check=True).stdout == HELLO
        assert box.network(Unrestricted()).metadata["network"] == "host"
        with pytest.raises(InvalidRequest, match="shares the host's network and has no allow-list"):
            box.allow("web.test")
        assert box.session.metadata["network"] == "host"


def test_one_that_is_connected_to(net: LocalSandboxConfig, greeter: Greeter) -> None:
    with Sandbox(config=net) as box, Sandbox.connect(box.session.id, config=net) as other:
        other.allow(greeter.entry)
        box.allow("web.test")
        assert box.session.metadata["allowed_hosts"] == f"{greeter.entry} web.test", "neither undoes the other's change"
        assert box.run(greeter.ask, check=True).stdout == HELLO


def test_what_cannot_be_asked_for(net: LocalSandboxConfig) -> None:
    with pytest.raises(InvalidRequest, match="give it without `network`"):
        Sandbox(allow=["web.test"], network=Unrestricted())
    with pytest.raises(InvalidRequest, match="an allow-list is a list"):
        Sandbox(allow="web.test", config=net)
    with pytest.raises(InvalidRequest, match="allows every host"), Sandbox(allow=["*"], config=net):
        pass
    with Sandbox(allow=["web.test"], config=net) as box:
        with pytest.raises(InvalidRequest, match="is not on the allow-list"):
            box.deny("other.test")
        with pytest.raises(InvalidRequest, match="a whole top-level domain"):
            box.allow("*.com")
        assert box.session.metadata["allowed_hosts"] == "web.test"


def test_the_configuration_file_is_read_unless_a_configuration_is_given(
    net: LocalSandboxConfig, greeter: Greeter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert net.root_dir
    monkeypatch.setenv("ALCOVE_HOME", net.root_dir)
    monkeypatch.setenv("ALCOVE_CONFIG", str(greeter.configure(tmp_path / "config.toml")))
    with Sandbox(allow=[greeter.entry]) as box:
        assert box.run(greeter.ask, check=True).stdout == HELLO
    with Sandbox(allow=[greeter.entry], config=LocalSandboxConfig(root_dir=net.root_dir)) as box:
        assert not box.run(greeter.ask).success
    monkeypatch.setenv("ALCOVE_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(InvalidRequest, match="cannot read the configuration"):
        Sandbox().start()


def test_another_backend_takes_a_whole_policy() -> None:
    with Sandbox(backend=FakeBackend()) as box:
        with pytest.raises(Unsupported, match="changing an allow-list by entries; give it whole"):
            box.allow("other.test")
        with pytest.raises(Unsupported, match="a network log"):
            box.network_log()
        box.network(Unrestricted())


async def test_the_async_twins(net: LocalSandboxConfig, greeter: Greeter) -> None:
    async with AsyncSandbox(allow=["other.test"], config=net) as box:
        await box.allow(greeter.entry)
        assert (await box.run(greeter.ask, check=True)).stdout == HELLO
        assert (await box.deny("other.test")).metadata["allowed_hosts"] == greeter.entry
        await box.network(Limited())
        assert not (await box.run(greeter.ask)).success
        records = [record async for record in box.network_log()]
        assert told([record for record in records if record.kind != "policy"]) == [
            ("connect", NAME, True),
            ("dns", NAME, False),
        ]


async def test_the_log_is_followed_until_the_session_ends(net: LocalSandboxConfig) -> None:
    async with AsyncSandbox(allow=["other.test"], config=net) as box:
        seen: list[str] = []
        came = asyncio.Event()

        async def follow() -> None:
            async for record in box.network_log(follow=True):
                seen.append(record.name)
                came.set()

        following = asyncio.create_task(follow())
        await box.run(["getent", "hosts", "one.test"])
        await asyncio.wait_for(came.wait(), 20)
        came.clear()
        await box.run(["getent", "hosts", "two.test"])
        await asyncio.wait_for(came.wait(), 20)
        await box.terminate()
        await asyncio.wait_for(following, 20)
    # each once or more: a resolver on a busy machine asks again
    assert list(dict.fromkeys(seen)) == ["one.test", "two.test"]
