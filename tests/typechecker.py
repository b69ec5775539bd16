"""Type checker that jaxtyping uses for mem during tests. It accepts an int as a float, as specified in PEP 484."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
