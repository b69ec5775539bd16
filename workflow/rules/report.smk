"""Create the tables and figures of the study. `update` keeps the previous report until the new report is complete."""


rule report:
    input:
        **{name: f"{run.folder}/run.json" for name, run in REPORT.inputs.items()},
        config=f"{REPORT.folder}/config.yaml",
    output:
        **{
            f"table{number}": shown(
                f"tables/table{number}.html", f"table{number}", "Tables"
            )
            for number in range(1, 6)
        },
        **{
            f"figure{number}": shown(
                f"figures/figure{number}.svg", f"figure{number}", "Figures"
            )
            for number in (1, 3, 4)
        },
        page=shown("report/index.html", "page", "Report"),
        results=shown("report/results.csv", "results", "Report"),
        table=update(f"{RESULTS}/report/table.md"),
        runs=update(f"{RESULTS}/runs.csv"),
        plain=[
            update(f"{RESULTS}/tables/table{number}.{kind}")
            for number in range(1, 6)
            for kind in ("md", "csv", "tex")
        ],
        pixels=[
            update(f"{RESULTS}/figures/figure{number}.{kind}")
            for number in (1, 3, 4)
            for kind in ("png", "md", "csv", "tex")
        ],
    log:
        f"logs/{STUDY.dataset.name}/{STUDY.backbone.name}/report-{REPORT.key}.log",
    conda:
        ENVIRONMENT
    threads: threads_of("report")
    resources:
        **compute("report"),
    shell:
        "mem report --config {input.config} --log {log}"
