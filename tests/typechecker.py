"""How jaxtyping checks the annotations of mem while tests run: an int passes for a float, as PEP 484 has it."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
