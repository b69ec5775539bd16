"""Entry point of a rank: that of submitit, with this plugin's signal handlers.

submitit installs its own handlers before it calls the job. If a signal arrived before the job replaces these handlers,
submitit would end the job.
"""

from __future__ import annotations

from snakemake_executor_plugin_submitit import processes


def main() -> None:
    """Run the job in the folder that the command line specifies."""
    processes.SIGNALS.install()
    # These imports take much longer than the installation of the handlers.
    from submitit.core.job_environment import JobEnvironment
    from submitit.core.submission import submitit_main

    JobEnvironment._handle_signals = lambda self, paths, submission: None  # type: ignore[method-assign]
    try:
        submitit_main()
    finally:
        processes.ignore_signals()  # when Python ends, it restores default handlers, which would end the process


if __name__ == "__main__":
    main()
