"""What the frozen backbone makes of every image, once per view."""


rule features:
    input:
        unpack(inputs),
        config="runs/{dataset}/{backbone}/features-{key}/config.yaml",
    output:
        features=expand(
            "runs/{{dataset}}/{{backbone}}/features-{{key}}/{split}-{kind}.npy",
            split=["train", "val", "test"],
            kind=["pooled", "labels"],
        ),
        about="runs/{dataset}/{backbone}/features-{key}/features.json",
        classifier="runs/{dataset}/{backbone}/features-{key}/classifier.safetensors",
        run="runs/{dataset}/{backbone}/features-{key}/run.json",
    log:
        "logs/{dataset}/{backbone}/features-{key}.log",
    conda:
        ENVIRONMENT
    threads: threads_of("features")
    resources:
        **compute("features"),
    shell:
        "mem features --config {input.config} --log {log}"
