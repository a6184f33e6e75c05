"""`fast-sam3d config`: the composed and checked configuration, as YAML."""

from __future__ import annotations

import argparse
import dataclasses
import json

from fast_sam3d.cli.arguments import ANY
from fast_sam3d.cli.configuration import config_from
from fast_sam3d.cli.flags import add_config_flags
from fast_sam3d.config.compose import check_methods
from fast_sam3d.config.resolve import own_modules

OVERRIDES = ANY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser)


def main(args: argparse.Namespace) -> int:
    import yaml

    config = config_from(args)
    check_methods(config)
    print(f"# picked: {', '.join(f'{group}={option}' for group, option in config.choices.items())}")
    tree = {name: part for name, part in dataclasses.asdict(config).items() if name not in ("modules", "choices")}
    plain = json.loads(json.dumps({**tree, **own_modules(config)}, default=str))  # tuples as lists, paths as texts
    print(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None), end="")
    return 0
