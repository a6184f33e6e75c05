"""`fast-sam3d config`: the composed and checked configuration, as YAML."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from fast_sam3d.cli.arguments import ANY
from fast_sam3d.cli.flags import add_config_flags, config_from
from fast_sam3d.config.compose import check_methods

__all__ = ["add_arguments", "main"]

OVERRIDES = ANY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser)


def main(args: argparse.Namespace) -> int:
    import yaml

    config = config_from(args)
    check_methods(config)
    print(f"# picked: {', '.join(f'{group}={option}' for group, option in config.choices.items())}")
    tree = {
        "seed": config.seed,
        **{
            name: _plain(dataclasses.asdict(getattr(config, name))) for name in ("input", "output", "pipeline", "scene")
        },
        **{name: _plain(settings) for name, settings in config.modules.items()},
    }
    print(yaml.safe_dump(tree, sort_keys=False, default_flow_style=None), end="")
    return 0


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
