"""One extraction of a folder of photos in a process of its own, by grobust or by a peer: seconds and peak memory.

``python benchmarks/extract_peers.py grobust|thingsvision|clip_benchmark|clip_benchmark_alone FOLDER SPEC WEIGHTS
OUT.npy``. SPEC is ``torchvision:resnet18@random`` for thingsvision, ``open_clip:ViT-B-32@random`` for CLIP_benchmark,
which has its default of four loader processes, or none; its weights are in the file. Batches of 32, on the CPU. Prints
a line of JSON. A peer runs under the Python that has it installed; nothing of grobust is loaded then. Time begins when
network and libraries are loaded.
"""

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path

BATCH = 32


def grobust(folder: Path, spec: str, weights: Path, out: Path) -> float:
    import numpy as np

    from grobust.data.tables import ImageFiles
    from grobust.features.extract import ExtractSettings, extract_features
    from grobust.features.store import FeatureStore
    from grobust.groups import Groups
    from grobust.models.backbones import load_backbone

    # The same random weights by rule; the file holds them for the peer.
    backbone = load_backbone(spec)
    names = tuple(sorted(path.name for path in folder.glob("*.jpg")))
    zeros = np.zeros(len(names), dtype=np.int64)
    data = ImageFiles("photos", Groups.from_arrays(zeros, zeros), zeros.astype(np.int8), names, folder)
    started = time.perf_counter()
    extract_features(data, backbone, out.with_suffix(".h5"), settings=ExtractSettings(batch_size=BATCH))
    seconds = time.perf_counter() - started
    np.save(out, FeatureStore(out.with_suffix(".h5")).read())
    return seconds


def thingsvision(folder: Path, spec: str, weights: Path, out: Path) -> float:
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


def clip_benchmark(folder: Path, spec: str, weights: Path, out: Path, *, workers: int = 4) -> float:
    """Its linear probe's `evaluate` as it is installed, up to where the features are in their files.

    It asserts ``device == "cuda"`` and calls ``.cuda()`` on its network. Here the device is the string "cpu" that says
    yes to that comparison, and the network one that stays where it is. Of the rest of its command line: no mixed
    precision (``--no_amp``) and no normalization, as in ours. More rows per class are asked for than there are, which
    ends it after the extraction.
    """
    import numpy as np
    import open_clip
    import torch
    from clip_benchmark.metrics import linear_probe
    from torchvision.datasets import ImageFolder

    class Cpu(str):
        def __eq__(self, other: object) -> bool:
            return other == "cuda" or str.__eq__(self, other)

        __hash__ = str.__hash__

    class Staying(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.encode_image = model.encode_image

        def _apply(self, fn: object, recurse: bool = True) -> "Staying":
            return self

    model, _, transform = open_clip.create_model_and_transforms(spec.split(":")[1].split("@")[0], pretrained=None)
    model.visual.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    # A folder of its own for the one class.
    classes = out.parent / "classes"
    classes.mkdir(exist_ok=True)
    (classes / "photos").unlink(missing_ok=True)
    (classes / "photos").symlink_to(folder)
    features = out.parent / "clip_features"
    shutil.rmtree(features, ignore_errors=True)
    started = time.perf_counter()
    data = ImageFolder(str(classes), transform=transform)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, num_workers=workers, pin_memory=True)
    linear_probe.evaluate(
        Staying(model), loader, None, len(data) + 1, BATCH, workers, 0.1, 1, "model", 0, str(features), Cpu("cpu"),
        normalize=False, amp=False,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    np.save(out, torch.load(features / "model" / "features_train.pt", weights_only=True).numpy())
    return seconds


def peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status does not say VmHWM")


def main() -> None:
    who, folder, spec, weights, out = sys.argv[1:]
    run = {
        "grobust": grobust, "thingsvision": thingsvision, "clip_benchmark": clip_benchmark,
        "clip_benchmark_alone": partial(clip_benchmark, workers=0),
    }[who]  # fmt: skip
    seconds = run(Path(folder), spec, Path(weights), Path(out))
    print("\n" + json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}), flush=True)


if __name__ == "__main__":
    main()
