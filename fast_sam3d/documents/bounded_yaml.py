"""PyYAML's loader, which counts what it composes."""

from __future__ import annotations

from typing import Any, Final

import yaml

from fast_sam3d.documents.files import check_text
from fast_sam3d.documents.limits import (
    DEPTH,
    DIGITS,
    REFERENCE_LENGTH,
    REFERENCES,
    REFERRING,
    VALUES,
    OverLimitError,
)

_INTEGER: Final = "tag:yaml.org,2002:int"


class BoundedLoader(yaml.SafeLoader):
    """Composes nodes from the events of the parser, which does not recurse, until a limit is passed.

    Args:
        text: to read.
        references: whether `${...}` is a reference.
    """

    def __init__(self, text: str, references: bool) -> None:
        super().__init__(text)
        self._count_references = references
        self._depth = self._deepest = self._values = self._references = 0
        self._known: dict[yaml.Node, tuple[int, int]] = {}
        """Of complete nodes: values in it, and levels below it, both with aliases written out."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """See yaml.composer. Raises OverLimitError."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            node = super().compose_node(parent, index)
            if node not in self._known:
                raise OverLimitError(f"refers to itself at line {mark.line + 1}")
            values, levels = self._known[node]
            self._add(values, self._depth + levels, mark.line)
            return node
        event = self.peek_event()
        before, outer = self._values, self._deepest
        self._depth += 1
        self._deepest = self._depth
        self._add(1, self._depth, event.start_mark.line)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode):
            self._scalar(node)
        if node is not None:
            self._known[node] = self._values - before, self._deepest - self._depth + 1
        self._depth -= 1
        self._deepest = max(outer, self._deepest)
        return node

    def _scalar(self, node: yaml.ScalarNode) -> None:
        line = node.start_mark.line
        check_text(node.value)
        if node.tag == _INTEGER and len(node.value) > DIGITS:
            raise OverLimitError(f"has a whole number of more than {DIGITS} digits at line {line + 1}")
        if self._count_references and "${" in node.value:
            self._references += node.value.count("${")
            if len(node.value) > REFERENCE_LENGTH:
                raise OverLimitError(f"has a reference of more than {REFERENCE_LENGTH} characters at line {line + 1}")
        self._add(len(node.value) // 64, self._depth, line)

    def _add(self, values: int, depth: int, line: int) -> None:
        self._values += values
        self._deepest = max(self._deepest, depth)
        if self._deepest > DEPTH:
            raise OverLimitError(f"nests lists or mappings more than {DEPTH} deep at line {line + 1}")
        if self._values > VALUES:
            raise OverLimitError(f"has more than {VALUES:,} values, those of its aliases included, at line {line + 1}")
        if self._references > REFERENCES:
            raise OverLimitError(f"has more than {REFERENCES} references (${{...}}) at line {line + 1}")
        if self._references and self._values > REFERRING:
            raise OverLimitError(f"has references (${{...}}) and more than {REFERRING:,} values at line {line + 1}")
