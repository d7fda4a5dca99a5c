"""A certificate or key that cannot be used is a wrong setting, and no outage."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from forecaster.broker.tls_files import refuse_unusable_files
from forecaster.errors import UsageError

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make keys")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of a key with the password `hunter2`, its certificate, another key, and a file that is none of them."""
    folder = tmp_path_factory.mktemp("tls")
    paths = {name: str(folder / f"{name}.pem") for name in ("key", "certificate", "other", "text")}
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=client", "-days", "2"]
    for key, certificate, password in (
        (paths["key"], paths["certificate"], ["-passout", "pass:hunter2"]),
        (paths["other"], str(folder / "unused.pem"), ["-nodes"]),
    ):
        command = [*request, *password, "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
    Path(paths["text"]).write_text("no certificate")
    return paths


def security(files: dict[str, str], password: str = "hunter2", **names: str) -> dict[str, str]:
    chosen = {"cafile": "certificate", "certfile": "certificate", "keyfile": "key", **names}
    options = {f"ssl_{option}": files[name] for option, name in chosen.items() if name}
    return {"security_protocol": "SASL_SSL", **options, "ssl_password": password}


def test_files_that_fit_are_accepted(files: dict[str, str]) -> None:
    refuse_unusable_files(security(files))
    refuse_unusable_files({"security_protocol": "SSL"})


def test_without_tls_no_file_is_opened(files: dict[str, str]) -> None:
    refuse_unusable_files({**security(files, cafile="text"), "security_protocol": "SASL_PLAINTEXT"})


@pytest.mark.parametrize("password", ["", "guessed"])
def test_a_wrong_password_names_its_variable_and_not_itself(files: dict[str, str], password: str) -> None:
    with pytest.raises(UsageError, match="SSL_PASSWORD") as error:
        refuse_unusable_files(security(files, password))
    assert "guessed" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "variable"),
    [
        ({"cafile": "text"}, "SSL_CAFILE"),
        ({"certfile": "text"}, "SSL_CERTFILE"),
        ({"keyfile": "text"}, "SSL_KEYFILE"),
        ({"keyfile": "other"}, "SSL_KEYFILE"),
        ({"certfile": ""}, "SSL_CERTFILE: is required"),
    ],
)
def test_a_wrong_file_names_its_variable(files: dict[str, str], names: dict[str, str], variable: str) -> None:
    with pytest.raises(UsageError, match=variable):
        refuse_unusable_files(security(files, **names))
