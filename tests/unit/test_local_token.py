"""The token of a Ray of one's own: found where Ray looks, made if need be, its owner's alone."""

import pytest

from flash_ray.cluster.token import read_token
from flash_ray.errors import UserError


@pytest.fixture
def path(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "folder" / "token"))
    return tmp_path / "folder" / "token"


def test_one_is_made_once_and_is_not_shown(path):
    token = read_token()
    assert len(token.value) == 64 and token.source == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert token.value not in repr(token)
    assert read_token() == token
    assert token.environment() == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def test_one_that_others_could_read_is_closed(path):
    path.parent.mkdir()
    path.write_text("secret\n")
    path.chmod(0o644)
    assert read_token().value == "secret"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_variable_comes_first(path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    token = read_token()
    assert token.environment() == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"}
    assert not path.exists()


def test_the_users_own_file_is_the_default(path, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_token().source == str(tmp_path / ".ray" / "auth_token")


def test_an_empty_file_and_a_folder_are_refused(path, tmp_path, monkeypatch):
    path.parent.mkdir()
    path.write_text("\n")
    with pytest.raises(UserError, match="the token is empty; remove the file"):
        read_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path))
    with pytest.raises(UserError, match="the token: Is a directory"):
        read_token()
