"""The workflow, which executes the runs of a study with one rule per stage.

snakemake --cores 2                                      run the default study, Digits-LT
snakemake --cores 2 --configfile config/fashion_lt.yaml  run another study
snakemake --profile local                                run on this machine, with one rank per GPU
snakemake --profile slurm                                submit every run as a SLURM job
"""

from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"


report: "workflow/report/workflow.rst"


localrules:
    all,


rule all:
    default_target: True
    input:
        expand("{results}/{file}", results=RESULTS, file=REPORT_FILES),
        RESTORED,


include: "workflow/rules/convert.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/adapt.smk"
include: "workflow/rules/train_head.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/targets.smk"


onstart:
    with errors_as_messages():
        WORKFLOW_PROCESS.start()
        write_last_start(
            STUDY_FILES,
            OVERRIDES,
            workflow.resource_settings.cores if jobs_on_this_machine() else None,
        )
        prepare_initial_weights()
        WORKFLOW_PROCESS.handle_signals(stop_jobs=workflow.local_exec)
        if jobs_on_this_machine():
            WORKFLOW_PROCESS.start_fork_server(STUDY_RUNS)


onsuccess:
    WORKFLOW_PROCESS.stop()
    print_results()


onerror:
    WORKFLOW_PROCESS.stop()
    print(
        "\nFinished runs and checkpoints are kept. Run the same command to resume.\n"
    )
