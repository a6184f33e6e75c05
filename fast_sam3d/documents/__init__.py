"""The only reader of YAML and JSON: bounded in bytes, depth, values, digits and references, whoever wrote the text.

Every error is one sentence with the file, the place in it, and what to do. Values are counted before any is built, and
an alias counts as what it stands for, so that a file of 200 bytes does not become gigabytes.
"""

from fast_sam3d.documents.json_text import parse_json, read_json
from fast_sam3d.documents.limits import CONFIG_BYTES, RECORD_BYTES
from fast_sam3d.documents.yaml_text import parse_yaml, read_yaml

__all__ = ["CONFIG_BYTES", "RECORD_BYTES", "parse_json", "parse_yaml", "read_json", "read_yaml"]
