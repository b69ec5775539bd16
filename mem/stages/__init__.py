"""The stages. Each stage has one rule, one command, one function in this package, and one kind of run folder."""
