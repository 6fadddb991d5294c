"""Which bug is in the port at the moment, if any, and what it replaces."""

planted_bugs: list[str] = []
planted_targets: dict[str, bool] = {}  # "module:name" of what is replaced; whether a function
