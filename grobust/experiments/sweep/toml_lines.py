"""On which line of a TOML file a key stands; tomllib does not say."""

import re
from dataclasses import dataclass, field

__all__ = ["TomlLines"]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-.\"']+)\s*=")
_STRINGS = re.compile(r"\"\"\".*?\"\"\"|'''.*?'''|\"(?:\\.|[^\"\\])*\"|'[^']*'")

Path = tuple[str | int, ...]


@dataclass
class TomlLines:
    """Lines (from 1) of tables and keys; a table of an array has its number, from 0, in its path."""

    lines: dict[Path, int] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, text: str) -> "TomlLines":
        """Scan a document that tomllib accepts."""
        found = cls(texts=text.splitlines())
        table: Path = ()
        counts: dict[str, int] = {}
        depth = 0
        for number, line in enumerate(found.texts, start=1):
            bare = _STRINGS.sub('""', line).partition("#")[0]
            header, key = _HEADER.match(line), _KEY.match(line)
            if depth == 0 and header:
                table = _table(header[2], array=header[1] == "[[", counts=counts)
                found.lines.setdefault(table, number)
            elif depth == 0 and key:
                found.lines.setdefault((*table, *_parts(key[1])), number)
            depth += sum(bare.count(c) for c in "[{") - sum(bare.count(c) for c in "]}") if not header or depth else 0
        return found

    def line(self, *path: str | int) -> int:
        """The line of a key; of what encloses it where the key itself is inside of a value."""
        for end in range(len(path), 0, -1):
            start = self.lines.get(path[:end])
            if start is not None:
                names = [str(name) for name in path[end:] if isinstance(name, str)]
                return self._inside(start, names[-1]) if names else start
        return 1

    def _inside(self, start: int, name: str) -> int:
        word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])\s*=")
        for number in range(start, len(self.texts) + 1):
            if number > start and _HEADER.match(self.texts[number - 1]):
                break
            if word.search(self.texts[number - 1]):
                return number
        return start


def _table(name: str, *, array: bool, counts: dict[str, int]) -> Path:
    parts = _parts(name)
    if array:
        counts[name] = counts.get(name, -1) + 1
        return (*parts, counts[name])
    # [probe.product] belongs to the last [[probe]] before it.
    return (parts[0], counts[parts[0]], *parts[1:]) if parts[0] in counts else parts


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in name.split("."))
