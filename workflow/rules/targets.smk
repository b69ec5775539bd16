"""The paper's tables and figures by name: `snakemake table2`. The report makes them all at once; a target prints its own."""


localrules:
    table1,
    table2,
    table3,
    table4,
    table5,
    figure1,
    figure3,
    figure4,


rule table1:
    input:
        expand(
            "{results}/tables/table1.{kind}",
            results=RESULTS,
            kind=["md", "csv", "html"],
        ),
    log:
        f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/table1.log",
    conda:
        ENVIRONMENT
    params:
        study=STUDY.study,
    shell:
        "mem results {params.study} table1 | tee {log}"


rule table2:
    input:
        expand(
            "{results}/tables/table2.{kind}",
            results=RESULTS,
            kind=["md", "csv", "html"],
        ),
    log:
        f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/table2.log",
    conda:
        ENVIRONMENT
    params:
        study=STUDY.study,
    shell:
        "mem results {params.study} table2 | tee {log}"


rule table3:
    input:
        expand(
            "{results}/tables/table3.{kind}",
            results=RESULTS,
            kind=["md", "csv", "html"],
        ),
    log:
        f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/table3.log",
    conda:
        ENVIRONMENT
    params:
        study=STUDY.study,
    shell:
        "mem results {params.study} table3 | tee {log}"


rule table4:
    input:
        expand(
            "{results}/tables/table4.{kind}",
            results=RESULTS,
            kind=["md", "csv", "html"],
        ),
    log:
        f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/table4.log",
    conda:
        ENVIRONMENT
    params:
        study=STUDY.study,
    shell:
        "mem results {params.study} table4 | tee {log}"


rule table5:
    input:
        expand(
            "{results}/tables/table5.{kind}",
            results=RESULTS,
            kind=["md", "csv", "html"],
        ),
    log:
        f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/table5.log",
    conda:
        ENVIRONMENT
    params:
        study=STUDY.study,
    shell:
        "mem results {params.study} table5 | tee {log}"


rule figure1:
    input:
        expand(
            "{results}/figures/figure1.{kind}",
            results=RESULTS,
            kind=["svg", "png", "md", "csv"],
        ),
    log:
        f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/figure1.log",
    conda:
        ENVIRONMENT
    params:
        study=STUDY.study,
    shell:
        "mem results {params.study} figure1 | tee {log}"


rule figure3:
    input:
        expand(
            "{results}/figures/figure3.{kind}",
            results=RESULTS,
            kind=["svg", "png", "md", "csv"],
        ),
    log:
        f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/figure3.log",
    conda:
        ENVIRONMENT
    params:
        study=STUDY.study,
    shell:
        "mem results {params.study} figure3 | tee {log}"


rule figure4:
    input:
        expand(
            "{results}/figures/figure4.{kind}",
            results=RESULTS,
            kind=["svg", "png", "md", "csv"],
        ),
    log:
        f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/figure4.log",
    conda:
        ENVIRONMENT
    params:
        study=STUDY.study,
    shell:
        "mem results {params.study} figure4 | tee {log}"
