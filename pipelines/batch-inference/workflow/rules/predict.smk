# Divide the manifest into parts and predict each in one job. Finished slides are kept, so a job may be killed and restarted at any time.
# Exit code 3 means that some slides failed: the job is done, and the summary lists them.
rule split:
    input:
        config["manifest"],
    output:
        expand(OUT + "/parts/{part}.csv", part=PARTS),
        settings=OUT + "/parts/settings.toml",
    params:
        out=shlex.quote(OUT),
        settings=shlex.quote(config["settings"]) if config["settings"] else "",
    shell:
        "pathopatch check {input:q} -o {params.out} --slides-per-part {config[slides_per_job]}"
        " && printf '[batch]\\ntotals = false\\n' | cat - {params.settings} > {output.settings:q}"


rule predict:
    input:
        manifest=OUT + "/parts/{part}.csv",
        settings=OUT + "/parts/settings.toml",
        models=[str(Path(model) / "config.json") for model in config["models"]],
    output:
        touch(OUT + "/parts/{part}.done"),
    log:
        OUT + "/logs/part-{part}.txt",
    params:
        models=" ".join(f"--model {shlex.quote(model)}" for model in config["models"]),
        out=shlex.quote(OUT),
        memory_gb=config["memory_gb"] / config["workers"],
    threads: config["workers"]
    resources:
        mem_mb=int(config["memory_gb"] * 1000),
    shell:
        "code=0; pathopatch predict {input.manifest:q} {params.models} -o {params.out}"
        " --workers {threads} --timeout {config[timeout_s]} --memory-gb {params.memory_gb} --config {input.settings:q} --quiet"
        " {config[options]} > {log:q} 2>&1 || code=$?; test $code -eq 0 -o $code -eq 3"
