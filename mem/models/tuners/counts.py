"""A sentence with the number of parameters that train. It imports nothing, so that `mem plan` starts quickly."""


def trained_text(trained: int, total: int) -> str:
    """Return the number of parameters that train, of all parameters, for the log and the plan."""
    share = f"({100 * trained / total:.2g} %)"
    if total < 1e6:
        return f"Training {trained:,} of {total:,} parameters {share}."
    return f"Training {trained / 1e6:.3g} of {total / 1e6:.4g} million parameters {share}."
