"""Reads the settings and secrets of a process from where people put them: arguments, environment, pyproject, files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chimpbase._core.errors import ConfigError
from chimpbase._core.settings import Settings


def read_settings(overrides: Mapping[str, Any], *, environ: Mapping[str, str], project: Path) -> Settings:
    """Settings by precedence: given here, then `CHIMPBASE_*`, then `[tool.chimpbase]` of the project, then defaults.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    return Settings.load(overrides=overrides, environ=environ, toml=_tool_table(project / "pyproject.toml"))


def read_secrets(settings: Settings, *, environ: Mapping[str, str], project: Path) -> dict[str, str]:
    """Secrets by precedence: files of the secrets directory (their trailing newline dropped), environment, `.env`.

    Raises:
        ConfigError: a file cannot be read.
    """
    secrets = _env_file(project / settings.env_file) if settings.env_file else {}
    secrets.update(environ)
    if settings.secrets_dir:
        directory = project / settings.secrets_dir
        try:
            files = [path for path in sorted(directory.iterdir()) if path.is_file()]
            secrets.update({path.name: path.read_text().rstrip("\r\n") for path in files})
        except OSError as error:
            raise ConfigError(
                f"Cannot read the secrets in {directory}: {error.strerror}.", key="secrets_dir"
            ) from error
    return secrets


def _tool_table(path: Path) -> Mapping[str, Any] | None:
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}.", key="pyproject.toml") from error
    return document.get("tool", {}).get("chimpbase")


def _env_file(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.", key="env_file") from error
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ").strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(f"{path}:{number} is not NAME=value.", key="env_file")
        value = value.strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        values[name.strip()] = value[1:-1] if quoted else value
    return values
