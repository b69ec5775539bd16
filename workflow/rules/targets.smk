"""Targets for the tables and figures of the paper, for example `snakemake table2`.

The rule `report` creates all tables and figures. Each target prints one of them.
"""

import shlex

KINDS = {
    "table": ["md", "csv", "tex", "html"],
    "figure": ["svg", "png", "md", "csv", "tex"],
}
PARTS = [("table", number) for number in range(1, 6)]
PARTS += [("figure", number) for number in (1, 3, 4)]


for part, number in PARTS:

    rule:
        name:
            f"{part}{number}"
        input:
            expand(
                f"{RESULTS}/{part}s/{part}{number}.{{kind}}",
                kind=KINDS[part],
            ),
        log:
            f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/{part}{number}.log",
        localrule: True
        conda:
            ENVIRONMENT
        params:
            study=STUDY.study,
            part=f"{part}{number}",
            directory=(
                f"--directory {shlex.quote(str(Path.cwd()))}"
                if workflow.overwrite_workdir
                else ""
            ),
        shell:
            "mem results {params.study} {params.part} {params.directory} | tee {log}"
