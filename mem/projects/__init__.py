"""Project folders: how `mem init` creates one, `mem run` starts a study in it, and `mem status` describes its runs."""
