# The runs, each with its hyperparameter search if there is one.
rule run:
    input:
        WORK + "/jobs/groups.done",
        study=config["study"],
    output:
        touch(WORK + "/jobs/{run}.done"),
    log:
        WORK + "/jobs/{run}.txt",
    params:
        search="" if SEARCH is None else f"--trials {SEARCH.get('trials', 8)}",
        work=shlex.quote(WORK),
        options=lambda wildcards: RUNS[wildcards.run],
    threads: config["threads"]
    resources:
        mem_mb=int(config["memory_gb"] * 1000),
    shell:
        "OMP_NUM_THREADS={threads} pathopatch train {params.work} --config {input.study:q} {params.search} {params.options}"
        " --quiet > {log:q} 2>&1"
