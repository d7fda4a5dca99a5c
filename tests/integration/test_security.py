"""Passwords, certificates and the smallest set of rights, with a broker that requires them."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from daemons import SHARED_BROKER, Daemon, Http, Stream, wait_until
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    NewTopic,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from forecaster.broker.plain_clients import RecordWriter
from forecaster.redaction import Redactor

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(not SHARED_BROKER.is_file(), reason="needs a broker that it may configure"),
]
PORT, SASL, TLS = 19592, 19595, 19596
USER, PASSWORD = "worker", "pass word, with = and \" and 'more'"
LOGIN = "org.apache.kafka.common.security.{}LoginModule required"


@dataclass(frozen=True)
class Secured:
    """A broker: at `address` everything is allowed without a password, at its other ports only what rights allow."""

    address: str
    certificate: Path

    def allow(self, kind: ResourceType, name: str, *operations: ACLOperation, prefixed: bool = False) -> None:
        """Give the user rights on a name, or on all names that begin with it."""
        pattern_type = ACLResourcePatternType.PREFIXED if prefixed else ACLResourcePatternType.LITERAL
        pattern = ResourcePattern(kind, name, pattern_type)
        rights = [ACL(f"User:{USER}", "*", operation, ACLPermissionType.ALLOW, pattern) for operation in operations]
        with closing(KafkaAdminClient(bootstrap_servers=self.address)) as admin:
            assert not admin.create_acls(rights)["failed"]

    def create(self, name: str, partitions: int, **settings: str) -> None:
        """Create a topic."""
        named = {key.replace("_", "."): value for key, value in settings.items()}
        with closing(KafkaAdminClient(bootstrap_servers=self.address)) as admin:
            admin.create_topics([NewTopic(name, partitions, 1, topic_configs=named)], timeout_ms=10_000)
            admin.wait_for_topics([name])

    def register(self, password: str = PASSWORD) -> None:
        """Give the user its password for SCRAM."""
        mechanisms = (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
        with closing(KafkaAdminClient(bootstrap_servers=self.address)) as admin:
            for mechanism in mechanisms:
                done = admin.alter_user_scram_credentials(
                    [UserScramCredentialUpsertion(USER, mechanism, password, 4096)]
                )
                assert done == {USER: None}


def keystore(folder: Path) -> tuple[Path, Path]:
    """Create a key for localhost and its certificate, and return the paths of both."""
    store, certificate = folder / "key.p12", folder / "certificate.pem"
    common = ["-keystore", str(store), "-storepass", "secret", "-alias", "broker"]
    name = ["-dname", "CN=localhost", "-ext", "SAN=IP:127.0.0.1", "-ext", "BC=ca:true"]
    subprocess.run(["keytool", "-genkeypair", "-keyalg", "RSA", *name, *common], check=True, capture_output=True)
    subprocess.run(
        ["keytool", "-exportcert", "-rfc", "-file", str(certificate), *common], check=True, capture_output=True
    )
    return store, certificate


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    store, certificate = keystore(folder)
    escaped = PASSWORD.replace("\\", "\\\\").replace('"', '\\"')
    plain = LOGIN.format("plain.Plain").replace("required", f'required user_{USER}="{escaped}"')
    lines = {
        "listeners": f"PLAINTEXT://127.0.0.1:{PORT},SASL_PLAINTEXT://127.0.0.1:{SASL},SASL_SSL://127.0.0.1:{TLS},"
        f"CONTROLLER://127.0.0.1:{PORT + 1}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{PORT},SASL_PLAINTEXT://127.0.0.1:{SASL},"
        f"SASL_SSL://127.0.0.1:{TLS}",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "connections.max.reauth.ms": "5000",  # every client logs in again while it serves
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.keystore.location": str(store),
        "ssl.keystore.password": "secret",
        "ssl.keystore.type": "PKCS12",
    }
    for listener in ("sasl_plaintext", "sasl_ssl"):
        # a backslash in a properties file must be doubled
        lines[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain.replace("\\", "\\\\") + ";"
        for size in (256, 512):
            lines[f"listener.name.{listener}.scram-sha-{size}.sasl.jaas.config"] = LOGIN.format("scram.Scram") + ";"
    settings = [f"{name}={value}" for name, value in lines.items()]
    subprocess.run([SHARED_BROKER, "start", folder, str(PORT), *settings], check=True, timeout=120)
    try:
        broker = Secured(f"127.0.0.1:{PORT}", certificate)
        broker.register()
        yield broker
    finally:
        subprocess.run([SHARED_BROKER, "stop", folder], check=False, timeout=60)


@dataclass(frozen=True)
class Right:
    """An operation on the topic whose name is the input's plus an ending, on groups, or on transactional ids."""

    kind: ResourceType
    ending: str
    operation: ACLOperation

    def __str__(self) -> str:
        return f"{self.operation.name}{self.ending or f'.{self.kind.name}'}".lower()


RIGHTS = [
    Right(ResourceType.TOPIC, "", ACLOperation.READ),
    *(Right(ResourceType.TOPIC, name, ACLOperation.WRITE) for name in (".forecasts", ".dead-letters")),
    *(
        Right(ResourceType.TOPIC, name, operation)
        for name in (".state", ".models", ".history")
        for operation in (ACLOperation.READ, ACLOperation.WRITE)
    ),
    *(Right(ResourceType.TOPIC, name, ACLOperation.DESCRIBE_CONFIGS) for name in (".state", ".models")),
    Right(ResourceType.GROUP, "-group", ACLOperation.READ),
    Right(ResourceType.TRANSACTIONAL_ID, "-group", ACLOperation.WRITE),
]
"""The rights that SECURITY.md lists; reading and writing include describing."""


def prepared(secured: Secured, topic: str, *, but: Right | None = None) -> None:
    """Create all topics, and give the user the rights that SECURITY.md lists, except one."""
    secured.create(topic, 2)
    for name in ("forecasts", "dead-letters", "history"):
        secured.create(f"{topic}.{name}", 2)
    secured.create(f"{topic}.state", 2, cleanup_policy="compact")
    secured.create(f"{topic}.models", 1, cleanup_policy="compact")
    for right in RIGHTS:
        if right != but:
            prefixed = right.kind != ResourceType.TOPIC
            secured.allow(right.kind, f"{topic}{right.ending}", right.operation, prefixed=prefixed)


def variables(mechanism: str, protocol: str, secret: Path, secured: Secured) -> dict[str, str]:
    secret.write_text(PASSWORD + "\n")
    return {
        "KAFKA__SECURITY_PROTOCOL": protocol,
        "KAFKA__SASL_MECHANISM": mechanism,
        "KAFKA__SASL_USERNAME": USER,
        "KAFKA__SASL_PASSWORD_FILE": str(secret),
        "KAFKA__CONNECT_DEADLINE": "8s",
        "TOPICS__CREATE": "false",
        "ROLE": "both",
        **({"KAFKA__SSL_CAFILE": str(secured.certificate)} if protocol == "SASL_SSL" else {}),
    }


def assert_no_secret(text: str) -> None:
    """Fail if a text holds the password in any encoding, or a part of an exchange that proves it."""
    known = Redactor()
    known.add([PASSWORD])
    line = next((line for line in text.splitlines() if known.hide(line) != line), "")
    assert not line, line
    assert not re.search(r"pass.{0,3}word,|with = and|c=biws|[rnpv]=[A-Za-z0-9+/]{20}", text)


@pytest.mark.parametrize(
    ("mechanism", "protocol", "port"),
    [("PLAIN", "SASL_SSL", TLS), ("SCRAM-SHA-512", "SASL_SSL", TLS), ("SCRAM-SHA-256", "SASL_PLAINTEXT", SASL)],
)
def test_it_serves_with_the_listed_rights_and_shows_no_secret_even_at_debug(
    secured: Secured, topic: str, tmp_path: Path, mechanism: str, protocol: str, port: int
) -> None:
    prepared(secured, topic)
    options = variables(mechanism, protocol, tmp_path / "secret", secured)
    with (
        Daemon(tmp_path, f"127.0.0.1:{port}", topic, LOG__LEVEL="DEBUG", **options) as daemon,
        closing(Stream(secured.address, topic, 2)) as stream,
    ):
        daemon.serving()
        stream.send_hours(20)
        stream.assert_exactly_once()
        assert daemon.events("trainer_elected")
        http = Http(daemon)
        for path in ("", "metrics", "readyz", "openapi.json", "api/v1/partitions"):
            assert_no_secret(http.get(path)[1])
        daemon.send(signal.SIGTERM)
        assert daemon.exit_code() == 0
        assert "SaslAuthenticateRequest" in daemon.log, "nothing was hidden, because nothing was logged"
        assert_no_secret(daemon.log)


REFUSED = {
    "password": ("SCRAM-SHA-512", "SASL_SSL", TLS, f"authentication failed: user '{USER}'"),
    "plain password": ("PLAIN", "SASL_PLAINTEXT", SASL, f"authentication failed: user '{USER}'"),
    "mechanism": ("SCRAM-SHA-256", "SASL_SSL", TLS, f"authentication failed: user '{USER}'"),
    "certificate": ("PLAIN", "SASL_SSL", TLS, f"TLS failed: the certificate of 127.0.0.1:{TLS} was not accepted"),
}
"""What is wrong: mechanism, protocol and port to use, and what the error must say."""
LONG_DOSE = ("plain password", "mechanism")


@pytest.mark.parametrize(
    "wrong", ["password", "certificate", *(pytest.param(name, marks=pytest.mark.full) for name in LONG_DOSE)]
)
def test_a_refused_login_ends_with_exit_code_3_long_before_the_deadline(
    secured: Secured, topic: str, tmp_path: Path, wrong: str
) -> None:
    mechanism, protocol, port, error = REFUSED[wrong]
    options = variables(mechanism, protocol, tmp_path / "secret", secured)
    options["KAFKA__CONNECT_DEADLINE"] = "10m"
    if "password" in wrong:
        (tmp_path / "secret").write_text("guessed-wrongly")
    if wrong == "certificate":
        del options["KAFKA__SSL_CAFILE"]
    with Daemon(tmp_path, f"127.0.0.1:{port}", topic, **options) as daemon:
        assert daemon.exit_code(180) == 3, daemon.log
        assert error in daemon.events("daemon_failed")[0]["error"]
        assert "guessed" not in daemon.log
        assert_no_secret(daemon.log)


MISSING = {
    ResourceType.TOPIC: "Read on topic {}",
    ResourceType.GROUP: "Read on groups that begin with {}-group",
    ResourceType.TRANSACTIONAL_ID: "Write on transactional ids that begin with {}-group",
}


@pytest.mark.parametrize(
    "kind",
    [
        ResourceType.TOPIC,
        ResourceType.GROUP,
        pytest.param(ResourceType.TRANSACTIONAL_ID, marks=pytest.mark.full),
    ],
)
def test_a_missing_right_ends_the_daemon_and_is_named(
    secured: Secured, topic: str, tmp_path: Path, kind: ResourceType
) -> None:
    prepared(secured, topic, but=next(right for right in RIGHTS if right.kind == kind))
    options = variables("PLAIN", "SASL_PLAINTEXT", tmp_path / "secret", secured)
    with Daemon(tmp_path, f"127.0.0.1:{SASL}", topic, KAFKA__OUTAGE_DEADLINE="10s", **options) as daemon:
        assert daemon.exit_code(180) == 3, daemon.log
        assert f"{USER} needs {MISSING[kind].format(topic)}" in daemon.events("daemon_failed")[0]["error"]


def test_a_password_that_changes_while_it_serves_is_an_outage_that_is_said(
    secured: Secured, topic: str, tmp_path: Path
) -> None:
    prepared(secured, topic)
    options = variables("SCRAM-SHA-256", "SASL_PLAINTEXT", tmp_path / "secret", secured)
    failed = f"authentication failed: user '{USER}'"
    with (
        Daemon(tmp_path, f"127.0.0.1:{SASL}", topic, KAFKA__OUTAGE_DEADLINE="5m", **options) as daemon,
        closing(Stream(secured.address, topic, 2)) as stream,
    ):
        daemon.serving()
        stream.send_hours(5)
        stream.assert_exactly_once()
        try:
            secured.register("another password")
            wait_until(lambda: failed in daemon.log, failed)
            stream.send_hours(5)
        finally:
            secured.register()
        stream.assert_exactly_once()
        assert daemon.process.poll() is None


TRAINS_SOON = {
    "NETWORK__CONTEXT": "12",
    "NETWORK__HIDDEN_SIZE": "16",
    "TRAINING__TBPTT_STEPS": "8",
    "TRAINING__MIN_READINGS": "500",
}


def works(daemon: Daemon, stream: Stream, event: str) -> bool:
    """Return whether it publishes a forecast for each reading and logs the event within a minute, without a failure."""

    def done() -> bool:
        return stream.receive() >= stream.sent and bool(daemon.events(event))

    deadline, pause = time.monotonic() + 60.0, threading.Event()
    while not done() and time.monotonic() < deadline and daemon.process.poll() is None:
        pause.wait(0.2)
    return done() and "not_published" not in daemon.log and not daemon.events("trainer_failed")


@pytest.mark.parametrize(
    "right", [None, *(pytest.param(right, marks=pytest.mark.full) for right in RIGHTS)], ids=lambda right: str(right)
)
def test_each_of_the_listed_rights_is_needed(secured: Secured, topic: str, tmp_path: Path, right: Right | None) -> None:
    prepared(secured, topic, but=right)
    options = variables("PLAIN", "SASL_PLAINTEXT", tmp_path / "secret", secured) | TRAINS_SOON

    def daemon() -> Daemon:
        return Daemon(tmp_path, f"127.0.0.1:{SASL}", topic, **options)

    with closing(Stream(secured.address, topic, 2)) as stream:
        with daemon() as first, closing(RecordWriter(secured.address, topic)) as writer:
            stream.send_hours(80)
            writer.send(b"pump-0", b"no json", partition=0)
            writer.flush()
            worked = works(first, stream, "training_run_decided")
        with daemon() as second:
            stream.send_hours(2)
            worked = worked and works(second, stream, "partitions_opened")
            assert worked == (right is None), first.log + second.log
