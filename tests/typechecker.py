"""The run-time check of annotations that the test run switches on; ordinary use pays nothing for it."""

from beartype import BeartypeConf, beartype

# PEP 484's numeric tower: an int is a float, as static checkers have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
