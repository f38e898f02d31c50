"""Model selection on validation rows, with a ledger of the labels it used.

========================== =========================================================== ======================
score                      definition, on validation rows                              labels used
========================== =========================================================== ======================
``worst_class``            smallest recall of a class (Yang et al. 2023)               class
``bias_unsupervised``      mean accuracy of the strata of proxy prediction and class   class
                           (Tsirigotis et al. 2023)
``bias_unsupervised_worst`` smallest accuracy of those strata                          class
``class_difference``       −Σ |recall of a class − recall of another|, over pairs      class
                           (as SubpopBench's "minimum class difference")
``worst_pseudo_group``     smallest accuracy of the pseudo-groups: in each class the   class
                           quarter of rows on which the proxy's loss is largest, and
                           the rest (ours)
``average``                plain accuracy; kept as the bad example                     class
``wga``                    smallest accuracy of a group: selection by an oracle        class, attribute
``average_group``          mean accuracy of the groups                                 class, attribute
========================== =========================================================== ======================

A *bias proxy* predicts the class from shortcuts: here a linear head on frozen features, fitted to the training split
without balancing. Cells without rows do not count, and are named. Larger is better for every score; on a tie the first
candidate in declared order wins.
"""

from grobust.selection._proxy import BiasProxy, ProxyReading, fit_bias_proxy
from grobust.selection._scores import best, cell_scores
from grobust.selection._selector import Choice, Selector, choose
from grobust.selection._validation import ValidationArrays

__all__ = [
    "BiasProxy",
    "Choice",
    "ProxyReading",
    "Selector",
    "ValidationArrays",
    "best",
    "cell_scores",
    "choose",
    "fit_bias_proxy",
]
