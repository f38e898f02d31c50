"""Names, versions and provenance of the feature store; no reading or writing here. `FORMAT.md` is the contract."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FORMAT_TYPE", "FORMAT_VERSION", "IMPORTED", "UNKNOWN", "Provenance"]

FORMAT_TYPE = "grobust-feature-store"
FORMAT_VERSION = 1
# Source, in a backbone's spec, of features that other software extracted; and a setting that nobody recorded.
IMPORTED = "imported"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Provenance:
    """All that decides the content of a feature store. Equality of `identity` is the identity of the cache.

    Parameters
    ----------
    backbone : spec string, ``source:name[@weights]``
    weights_digest : hash of the network's weights
    preprocessing : what happens to an item before the network, in words that differ whenever it differs
    pooling : ``model``, ``gap``, ``cls``, ``mean`` or ``flatten``
    precision : ``float32``, or the autocast dtype ``bfloat16`` / ``float16``
    dtype : of the stored features, ``float32`` or ``float16``
    dataset : name of the data set
    dataset_digest : hash of its manifest
    options : further settings that can change a feature (maximal token count, views, subset), as strings
    versions : library versions; recorded and shown, not part of the identity
    """

    backbone: str
    weights_digest: str
    preprocessing: str
    pooling: str
    precision: str
    dtype: str
    dataset: str
    dataset_digest: str
    options: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def imported(
        cls, name: str, *, dtype: str, dataset: str, dataset_digest: str, files_digest: str, options: dict[str, str]
    ) -> "Provenance":
        """Of features that other software extracted: what is not known stays `UNKNOWN`.

        Weights that are unknown in two imports are not therefore the same: their digest names the files.
        """
        return cls(
            backbone=f"{IMPORTED}:{name}", weights_digest=f"{UNKNOWN}:{files_digest}", preprocessing=UNKNOWN,
            pooling=UNKNOWN, precision=UNKNOWN, dtype=dtype, dataset=dataset, dataset_digest=dataset_digest,
            options=options,
        )  # fmt: skip

    def identity(self) -> dict[str, str]:
        """Flat mapping of what must agree for two stores to hold the same features."""
        fields = {f.name: str(getattr(self, f.name)) for f in dataclasses.fields(self)}
        del fields["options"], fields["versions"]
        return fields | {f"options.{key}": value for key, value in sorted(self.options.items())}

    def difference(self, other: "Provenance") -> dict[str, tuple[str, str]]:
        """Settings in which two provenances differ: name → (this one's, the other's); empty when identical."""
        mine, theirs = self.identity(), other.identity()
        keys = sorted(mine.keys() | theirs.keys())
        absent = "(not set)"
        return {
            k: (mine.get(k, absent), theirs.get(k, absent))
            for k in keys
            if mine.get(k, absent) != theirs.get(k, absent)
        }

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """Inverse of `to_json`; ValueError or TypeError if the text is something else."""
        value: Any = json.loads(text)
        return cls(**value)
