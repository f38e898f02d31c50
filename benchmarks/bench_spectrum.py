"""Spectra of all groups and classes against the official recipe and numpy.cov per group and class."""

import numpy as np
import torch
from harness import arguments, paired, report

from grobust.arrays import to_device
from grobust.data.synthetic import gaussian_groups
from grobust.spectrum import class_spectra, group_spectra, stream_spectra

TOP = 10


def main() -> None:
    args = arguments(__doc__ or "")
    full = args.size == "full"
    counts, dim = ((14_000, 800, 300, 4400), 768) if full else ((300, 80, 30, 150), 40)
    data = gaussian_groups(counts, dim, seed=0, decay=1.0)
    groups, x = data.groups, data.features
    on_device, positions = to_device(x, args.device), np.arange(len(groups))
    cells = [(groups.ids, g) for g in range(4)] + [(groups.labels, y) for y in range(2)]

    def ours() -> np.ndarray:
        by_group, by_class = stream_spectra([(on_device, positions)], groups=groups, dim=dim, rank=TOP)
        return np.concatenate([by_group.eigenvalues, by_class.eigenvalues])

    def official() -> np.ndarray:
        tops = []
        for ids, cell in cells:
            rows = torch.from_numpy(x[ids == cell])
            centred = rows - rows.mean(0)
            covariance = centred.T @ centred / len(rows)
            start = torch.randn(dim, TOP, generator=torch.Generator().manual_seed(0))
            tops.append(torch.lobpcg(covariance, k=TOP, X=start)[0].numpy())
        return np.stack(tops)

    def numpy_cov() -> np.ndarray:
        tops = [np.linalg.eigvalsh(np.cov(x[ids == cell].T, ddof=0))[::-1][:TOP] for ids, cell in cells]
        return np.stack(tops)

    exact = numpy_cov()
    error = float(np.max(np.abs(ours() / exact - 1)))
    assert error < 1e-5
    assert group_spectra(x, groups).ddof == class_spectra(x, groups).ddof == 0
    theirs = float(np.max(np.abs(official() / exact - 1)))
    name = f"4 groups, 2 classes of {len(groups)} x {dim}, top {TOP}"
    rows = [
        paired(
            name, ours, "official recipe", official, answer=f"relative error {error:.0e}, theirs {theirs:.0e}", pairs=3
        ),
        paired(name, ours, "numpy.cov + eigvalsh", numpy_cov, answer=f"relative error {error:.0e}", pairs=3),
    ]
    report("spectrum", rows, args)


if __name__ == "__main__":
    main()
