"""Settings: precedence, nesting, secrets, and an error that names key, place and near names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from infra.runtime.errors import ConfigError
from infra.runtime.settings import (
    ComponentSettings,
    HttpSettings,
    KafkaSettings,
    LogSettings,
    Secret,
    SecurityProtocol,
    TopicSettings,
)


class ExampleSettings(ComponentSettings):
    component = "example"

    host: str = "default"
    batch_records: int = 10
    sources: tuple[str, ...] = ()
    token: Secret | None = None
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()


def _file(directory: Path, text: str) -> Path:
    file = directory / "deltavisor.toml"
    file.write_text(text)
    return file


def _refusal(file: Path | None, env: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        ExampleSettings.load(file, env, overrides)
    return str(refused.value)


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = _file(tmp_path, '[example]\nhost = "file"\nbatch_records = 1\nsources = ["file"]\n')
    env = {"DELTAVISOR_EXAMPLE__HOST": "env", "DELTAVISOR_EXAMPLE__BATCH_RECORDS": "2"}
    settings = ExampleSettings.load(file, env, {"host": "flag", "batch_records": None})
    assert (settings.host, settings.batch_records, settings.sources) == ("flag", 2, ("file",))
    assert settings.kafka.bootstrap == "127.0.0.1:9092"


def test_shared_tables_are_below_the_components_own(tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        '[kafka]\nbootstrap = "shared:1"\nclient_id = "shared"\n[example.kafka]\nbootstrap = "own:1"\n'
        "[topics]\npartitions = 24\n[agent]\nunread_here = 1\n",
    )
    settings = ExampleSettings.load(file, {"DELTAVISOR_KAFKA__TOPIC_PREFIX": "lab."})
    assert settings.kafka.bootstrap == "own:1"
    assert (settings.kafka.client_id, settings.kafka.topic_prefix) == ("shared", "lab.")
    assert settings.topics.partitions == 24


def test_variables_nest_and_lists_are_json() -> None:
    env = {
        "DELTAVISOR_EXAMPLE__KAFKA__BOOTSTRAP": "a:1,b:2",
        "DELTAVISOR_EXAMPLE__SOURCES": '["x", "y"]',
        "DELTAVISOR_EXAMPLE__TOKEN": "[looks like json",
        "DELTAVISOR_STACK_DIR": "not a setting",
        "UNRELATED__HOST": "x",
    }
    settings = ExampleSettings.load(None, env)
    assert settings.kafka.bootstrap == "a:1,b:2"
    assert settings.sources == ("x", "y")
    assert settings.token == Secret("[looks like json")


def test_the_process_environment_is_not_read_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTAVISOR_EXAMPLE__HOST", "leaked")
    monkeypatch.setenv("BOOTSTRAP", "leaked:1")
    assert ExampleSettings.load(None, None).host == "default"
    assert KafkaSettings().bootstrap == "127.0.0.1:9092"


def test_settings_are_frozen() -> None:
    settings = ExampleSettings.load(None, None)
    with pytest.raises(ValidationError, match="frozen"):
        settings.host = "other"


@pytest.mark.parametrize(
    ("toml", "env", "expected"),
    [
        ("[example]\nhots = 1\n", {}, ["[example] hots", "unknown setting 'hots'", "did you mean 'host'?"]),
        ("[exampel]\nhost = 1\n", {}, ["unknown table [exampel]", "did you mean 'example'?"]),
        ("[kafka]\nbootstrp = 'a:1'\n", {}, ["[kafka] bootstrp", "'kafka.bootstrp'", "did you mean 'bootstrap'?"]),
        ("example = 3\n", {}, ["must be a table", "write [example]"]),
        ("[example.host]\nname = 1\n", {}, ["'host' is a single value and has no 'name'"]),
        ("[example\n", {}, ["not valid TOML", "mend the syntax"]),
        ("", {"DELTAVISOR_EXAMPLE__HOTS": "1"}, ["DELTAVISOR_EXAMPLE__HOTS: unknown setting", "did you mean 'host'?"]),
        ("", {"DELTAVISOR_EXAMPEL__HOST": "1"}, ["DELTAVISOR_EXAMPEL__HOST: unknown component", "'example'"]),
        ("", {"DELTAVISOR_EXAMPLE__SOURCES": "x,y"}, ["sources is not valid JSON", '["a", "b"]']),
        ("", {"DELTAVISOR_EXAMPLE__ZZZ": "1"}, ["known are batch_records, host, http"]),
    ],
)
def test_an_unknown_or_malformed_key_is_named_with_place_and_advice(
    tmp_path: Path, toml: str, env: dict[str, str], expected: list[str]
) -> None:
    message = _refusal(_file(tmp_path, toml), env)
    assert [part for part in expected if part not in message] == []


def test_every_bad_value_is_named_with_the_place_that_gave_it(tmp_path: Path) -> None:
    file = _file(tmp_path, '[example]\nbatch_records = "many"\n[kafka]\nbootstrap = "nowhere"\n')
    message = _refusal(file, {"DELTAVISOR_EXAMPLE__TOPICS__PARTITIONS": "0"})
    assert "batch_records: Input should be a valid integer" in message
    assert f"(from {file} [example] batch_records)" in message
    assert f"kafka.bootstrap: 'nowhere' is not host:port (from {file} [kafka] bootstrap)" in message
    assert "(from DELTAVISOR_EXAMPLE__TOPICS__PARTITIONS)" in message


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    message = _refusal(tmp_path / "absent.toml", {})
    assert "absent.toml: cannot read the settings file (No such file or directory)" in message


def test_a_secret_comes_from_a_file_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text("hunter2\n")
    settings = ExampleSettings.load(_file(tmp_path, '[example]\ntoken_file = "token.txt"\n'), None)
    assert settings.token == Secret("hunter2")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "empty"), (b"x" * 70_000, "larger than 65536 bytes"), (b"\xff\xfe", "not UTF-8"), (None, "No such file")],
)
def test_an_unusable_secret_file_is_named(tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    message = _refusal(None, {"DELTAVISOR_EXAMPLE__TOKEN_FILE": str(tmp_path / "secret")})
    assert expected in message
    assert "DELTAVISOR_EXAMPLE__TOKEN_FILE" in message


def test_a_secret_is_refused_on_the_command_line_and_never_repeated() -> None:
    message = _refusal(None, {}, {"token": "hunter2"})
    assert "flag --token" in message
    assert "hunter2" not in message
    assert ExampleSettings.load(None, None, {"token": Secret("hunter2")}).token == Secret("hunter2")


def test_a_bad_secret_value_is_not_repeated() -> None:
    message = _refusal(None, {}, {"kafka": {"sasl_password": Secret("hunter2")}})
    assert "sasl_* is set, but security_protocol is PLAINTEXT" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"security_protocol": "SASL_SSL"}, "needs sasl_mechanism, sasl_username and sasl_password"),
        ({"sasl_username": "u"}, "use SASL_SSL"),
        ({"ssl_ca_location": "ca.pem"}, "use SSL or SASL_SSL"),
        ({"security_protocol": "SSL", "ssl_key_location": "k.pem"}, "go together"),
        ({"bootstrap": "kafka://h:9092"}, "not host:port"),
        ({"bootstrap": "h:99999"}, "not host:port"),
        ({"bootstrap": "h:1,"}, "not host:port"),
        ({"topic_prefix": "a/b"}, "topic_prefix"),
    ],
)
def test_contradictory_kafka_settings_are_refused(given: dict[str, Any], complaint: str) -> None:
    assert complaint in _refusal(None, {}, {"kafka": given})


def test_a_complete_sasl_connection_is_accepted() -> None:
    kafka = KafkaSettings(
        security_protocol=SecurityProtocol.SASL_SSL,
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="u",
        sasl_password=Secret("p"),
    )
    assert kafka.sasl_password == Secret("p")


def test_more_in_sync_replicas_than_replicas_are_refused() -> None:
    assert "nothing could ever be written" in _refusal(None, {}, {"topics.min_insync_replicas": 2})


@pytest.mark.parametrize(("text", "port"), [("off", None), ("0", 0), ("9100", 9100)])
def test_the_http_port_can_be_off(text: str, port: int | None) -> None:
    assert ExampleSettings.load(None, {"DELTAVISOR_EXAMPLE__HTTP__PORT": text}).http.port == port
