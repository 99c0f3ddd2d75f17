"""What is written for the servers: loopback alone, nothing created by accident, nothing secret on a command line."""

from __future__ import annotations

from pathlib import Path
from string import Template

import pytest

from infra.runtime.errors import ConfigError, FatalError
from infra.stack import aot
from infra.stack.broker import broker_properties, java_command, new_cluster_id
from infra.stack.commands import run
from infra.stack.debian import fetch_program
from infra.stack.external import split_password
from infra.stack.jars import CHECKSUMS, fetch_kafka, kafka_version, verify
from infra.stack.layout import StackPaths
from infra.stack.postgres_config import HBA, server_settings
from infra.stack.postgres_programs import check_version
from infra.stack.privileges import place, reachable_by_all
from infra.stack.prometheus import TEMPLATE
from infra.stack.report import silent
from infra.stack.services import ServiceName
from infra.stack.settings import StackSettings
from infra.stack.starting import rotate, tail


def test_the_broker_listens_on_loopback_alone() -> None:
    properties = broker_properties(Path("/data"), port=1, controller_port=2)
    listeners = properties["listeners"].split(",") + properties["advertised.listeners"].split(",")
    assert all("://127.0.0.1:" in listener for listener in listeners)
    assert properties["controller.quorum.voters"] == "1@127.0.0.1:2"
    assert properties["auto.create.topics.enable"] == "false"


def test_cluster_ids_are_what_kafka_takes() -> None:
    ids = {new_cluster_id() for _ in range(300)}
    assert len(ids) == 300
    assert all(len(one) == 22 and not one.startswith("-") for one in ids)


def test_the_class_path_is_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.jar", "a.jar", "notes.txt"):
        (tmp_path / name).touch()
    command = java_command(tmp_path, Path("/java"), ["-Xmx1m"], "Main", "x")
    assert command[0] == "/java/bin/java"
    assert command[command.index("-cp") + 1] == f"{tmp_path}/a.jar:{tmp_path}/b.jar"
    assert command[-2:] == ["Main", "x"]


def test_an_empty_start_up_cache_is_not_used(tmp_path: Path) -> None:
    jars, home = tmp_path / "kafka-1", tmp_path / "java"
    home.mkdir()
    (home / "release").write_text('JAVA_VERSION="25.0.2"\nMODULES="a b"\n')
    archive = aot.archive(jars, home)
    assert archive.name == "kafka-1-java-25.0.2.aot"
    assert aot.options(jars, home) == []
    archive.touch()
    assert aot.options(jars, home) == []
    archive.write_bytes(b"x")
    assert aot.options(jars, home) == [f"-XX:AOTCache={archive}"]


def test_postgres_listens_on_loopback_with_passwords_and_quotes_paths() -> None:
    settings = server_settings(
        port=5, hba=Path("/it's/hba"), socket_directory=None, shared_buffers_mib=32, durable=True
    )
    assert settings["listen_addresses"] == "'127.0.0.1'"
    assert settings["hba_file"] == "'/it''s/hba'"
    assert settings["unix_socket_directories"] == "''"
    assert settings["track_commit_timestamp"] == "on"
    assert "fsync" not in settings
    assert all(line.endswith("scram-sha-256") for line in HBA.splitlines())


def test_only_throw_away_stacks_skip_fsync() -> None:
    settings = server_settings(
        port=5, hba=Path("/hba"), socket_directory=Path("/run"), shared_buffers_mib=32, durable=False
    )
    assert settings["fsync"] == "off"
    assert settings["unix_socket_directories"] == "'/run'"


def test_the_prometheus_template_has_no_other_placeholders() -> None:
    text = Template(TEMPLATE.read_text()).substitute(prometheus="127.0.0.1:1", targets="/targets")
    assert '"127.0.0.1:1"' in text
    assert "/targets/*.json" in text


def test_the_checksums_belong_to_the_pinned_version() -> None:
    assert f"kafka_2.13-{kafka_version()}.jar" in CHECKSUMS.read_text()


def test_jars_must_be_exactly_those_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jar").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    verify(tmp_path, {"a.jar": empty})
    with pytest.raises(FatalError, match=r"b\.jar"):
        verify(tmp_path, {"a.jar": empty, "b.jar": empty})
    (tmp_path / "a.jar").write_bytes(b"altered")
    with pytest.raises(FatalError, match=r"a\.jar"):
        verify(tmp_path, {"a.jar": empty})
    with pytest.raises(FatalError, match=r"a\.jar"):
        verify(tmp_path, {})


@pytest.mark.parametrize("name", ["", "cache", "../up", "A", "x y", ".hidden", "x" * 49])
def test_a_stack_cannot_be_called_that(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a stack"):
        StackPaths.of(name, Path("/base"))


def test_the_password_of_a_users_database_is_split_off() -> None:
    public, password = split_password("postgresql://me:s3cret@db.example:5433/fleet")
    assert password == "s3cret"
    assert "s3cret" not in public
    assert "host=db.example" in public
    assert split_password("host=db") == ("host=db", None)


def test_a_malformed_dsn_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        split_password("host=db s3cret")
    assert "s3cret" not in str(caught.value)
    assert "postgres_dsn" in str(caught.value)


def test_servers_of_the_users_own_are_known_by_their_address() -> None:
    settings = StackSettings.load(
        None,
        {"DELTAVISOR_STACK__KAFKA_BOOTSTRAP": "k:9092", "DELTAVISOR_STACK__POSTGRES_DSN": "host=db password=x"},
    )
    assert settings.address_of(ServiceName.KAFKA) == "k:9092"
    assert settings.address_of(ServiceName.POSTGRES) == "host=db password=x"
    assert settings.address_of(ServiceName.PROMETHEUS) is None
    assert "password=x" not in repr(settings)


def test_a_private_parent_makes_a_place_unreachable(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    assert not reachable_by_all(private / "data")
    assert reachable_by_all(place(private / "data"))
    assert place(private / "data") == place(private / "data") != place(private / "other")
    assert reachable_by_all(Path("/usr/lib"))
    assert place(Path("/usr/lib/x")) == Path("/usr/lib/x")


def test_the_end_of_a_log_begins_with_the_present_run(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "kafka.log"
    assert tail(log, 5) == []
    assert rotate(log) == 0
    log.write_text("earlier\n")
    begin = rotate(log)
    with log.open("a") as stream:
        stream.write("one\ntwo\nthree\n")
    assert tail(log, 2) == ["two", "three"]
    assert tail(log, 9, begin=begin) == ["one", "two", "three"]


def test_a_large_log_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "kafka.log"
    with log.open("wb") as stream:
        stream.truncate(11 * 1024 * 1024)
    assert rotate(log) == 0
    assert not log.exists()
    assert (tmp_path / "kafka.log.1").stat().st_size == 11 * 1024 * 1024


@pytest.mark.parametrize("directory", ["/a:b", "/a,b", '/a"b', "/a\\b", "/a\nb"])
def test_a_path_that_servers_would_take_apart_is_refused(directory: str) -> None:
    with pytest.raises(ConfigError, match="cannot hold a stack"):
        StackPaths.of("lab", Path(directory))
    with pytest.raises(ConfigError, match="cannot hold a stack"):
        StackPaths.of("lab", Path("/base"), Path(directory))


def test_what_is_not_installed_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"mvn is not installed; install Maven .*apt-get install maven"):
        fetch_kafka(tmp_path, silent)
    with pytest.raises(ConfigError, match="apt-get is not installed; install"):
        fetch_program(tmp_path, "prometheus", "prometheus", lambda doing: None)


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"sh failed with code 3 while trying: one \| two"):
        run(["/bin/sh", "-c", "echo one; echo two >&2; exit 3"], doing="trying", cwd=tmp_path)
    assert run(["/bin/sh", "-c", "echo fine"], doing="trying") == "fine"


def test_an_old_or_absent_postgres_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no program postgres"):
        check_version(tmp_path)
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.11 (Debian 14.11-1)'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ConfigError, match=r"14\.11.* is too old; install PostgreSQL 15 or later"):
        check_version(tmp_path)
    (tmp_path / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 17.2'\n")
    check_version(tmp_path)
