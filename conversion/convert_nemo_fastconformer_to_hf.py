"""
Convert a NeMo FastConformer checkpoint for Transformers, and prove that the numbers are NeMo's.

    python conversion/convert_nemo_fastconformer_to_hf.py --model_name nvidia/parakeet-tdt-0.6b-v2 \
        --output_dir ./fastconformer-hf --verify

The same as `fastconformer convert`, with `--model_name` as a second name of `--model`; `--help` lists the options.
"""

from __future__ import annotations

import typer

from transformers_fastconformer.cli.convert import convert
from transformers_fastconformer.cli.main import run

if __name__ == "__main__":
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    application.command()(convert)
    command = typer.main.get_command(application)
    for option in command.params:
        if option.name == "model":
            option.opts.insert(0, "--model_name")
    run(command)
