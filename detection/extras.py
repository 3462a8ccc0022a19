"""The optional packages, and the error that tells how to install those that are missing."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version

from .errors import ConfigError

#: Packages of the extras of pyproject.toml, as modules.
EXTRAS = {
    "completion": ("argcomplete",),
    "hotcoco": ("hotcoco",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "hub": ("huggingface_hub",),
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "nncf": ("openvino", "nncf"),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client"),
    "ray": ("ray", "fsspec", "pyarrow"),
    "remote": ("fsspec", "pyarrow"),
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "wandb": ("wandb",),
}
#: Modules that packages of `EXTRAS` can do without: with this one, OpenVINO and NNCF report their
#: use to a service of statistics, unless a file in the home folder says no.
UNWANTED = ("openvino_telemetry",)


def require_extra(extra: str) -> None:
    """Import the packages of an extra; raises ConfigError where one is not installed."""
    for name in UNWANTED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    try:
        for name in EXTRAS[extra]:
            import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{error}: this needs further packages: pip install 'resdet[{extra}]'"
        ) from error


def expect_extra(extra: str) -> dict[str, str]:
    """The versions of the packages of an extra; raises ConfigError where one is not installed."""
    require_extra(extra)
    return {name: version(name) for name in EXTRAS[extra]}
