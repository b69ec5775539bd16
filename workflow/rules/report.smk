"""Tables and figures of the study. `update` keeps the last report until the new one is whole."""


rule report:
    input:
        **{name: f"{run.folder}/run.json" for name, run in REPORT.inputs.items()},
        config=f"{REPORT.folder}/config.yaml",
    output:
        page=update(f"results/{STUDY.study}/report/index.html"),
        results=update(f"results/{STUDY.study}/report/results.csv"),
        table=update(f"results/{STUDY.study}/report/table.md"),
        runs=update(f"results/{STUDY.study}/runs.csv"),
    log:
        f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/report-{REPORT.key}.log",
    conda:
        ENVIRONMENT
    threads: threads_of("report")
    resources:
        **compute("report"),
    shell:
        "mem report --config {input.config} --log {log}"
