"""One extraction of a folder of photos in a process of its own, by grobust or by a peer: seconds and peak memory.

``python benchmarks/extract_peers.py grobust|thingsvision FOLDER WEIGHTS OUT.npy``. The network is torchvision's
ResNet-18 with the weights of the file, in batches of 32, on the CPU. Prints a line of JSON. A peer runs under the
Python that has it installed; nothing of grobust is loaded then. Time begins when network and libraries are loaded.
"""

import json
import sys
import time
from pathlib import Path

BATCH = 32


def grobust(folder: Path, weights: Path, out: Path) -> float:
    import numpy as np

    from grobust.data.tables import ImageFiles
    from grobust.features.extract import ExtractSettings, extract_features
    from grobust.features.store import FeatureStore
    from grobust.groups import Groups
    from grobust.models.backbones import load_backbone

    # The same random weights by rule; the file holds them for the peer.
    backbone = load_backbone("torchvision:resnet18@random")
    names = tuple(sorted(path.name for path in folder.glob("*.jpg")))
    zeros = np.zeros(len(names), dtype=np.int64)
    data = ImageFiles("photos", Groups.from_arrays(zeros, zeros), zeros.astype(np.int8), names, folder)
    started = time.perf_counter()
    extract_features(data, backbone, out.with_suffix(".h5"), settings=ExtractSettings(batch_size=BATCH))
    seconds = time.perf_counter() - started
    np.save(out, FeatureStore(out.with_suffix(".h5")).read())
    return seconds


def thingsvision(folder: Path, weights: Path, out: Path) -> float:
    import numpy as np
    import torch
    import torchvision  # noqa: F401 - before thingsvision, which loads TensorFlow: the other order crashes
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset
    from thingsvision.utils.storing import save_features

    extractor = get_extractor(
        model_name="resnet18", source="torchvision", device="cpu", pretrained=False, model_parameters={"weights": None}
    )
    extractor.model.load_state_dict(torch.load(weights, weights_only=True))
    extractor.model.eval()
    started = time.perf_counter()
    dataset = ImageDataset(
        root=str(folder), out_path=str(out.parent / "thingsvision"), backend=extractor.get_backend(),
        transforms=extractor.get_transformations(resize_dim=256, crop_dim=224),
    )  # fmt: skip
    batches = DataLoader(dataset=dataset, batch_size=BATCH, backend=extractor.get_backend())
    features = extractor.extract_features(
        batches=batches, module_name="avgpool", flatten_acts=True, output_type="ndarray"
    )
    save_features(features, out_path=str(out.parent / "thingsvision"), file_format="npy")
    seconds = time.perf_counter() - started
    np.save(out, features)
    return seconds


def peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status does not say VmHWM")


def main() -> None:
    who, folder, weights, out = sys.argv[1:]
    run = {"grobust": grobust, "thingsvision": thingsvision}[who]
    seconds = run(Path(folder), Path(weights), Path(out))
    print("\n" + json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}), flush=True)


if __name__ == "__main__":
    main()
