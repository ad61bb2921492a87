"""Fine-tune a checkpoint on the recordings of a manifest, with low-rank adapters.

    python examples/finetune.py train.jsonl test.jsonl my-model --model nvidia/parakeet-tdt-0.6b-v2

A manifest has one JSON object a line with `audio_filepath` and `text`. Needs the extra `train`.
"""

import argparse

from transformers_fastconformer import FinetuneOptions, LoraOptions, RowForm, finetune, load_model, open_clips

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("train_data", help="manifest, folder or data set of the Hub to learn from")
parser.add_argument("eval_data", help="the same to evaluate with")
parser.add_argument("output_dir", help="folder for the checkpoint")
parser.add_argument("--model", default="demo")
parser.add_argument("--max_steps", type=int, default=500)
arguments = parser.parse_args()

model, processor = load_model(arguments.model, device="cpu", dtype="float32")
form = RowForm(audio_column="audio", text_column="text")
options = FinetuneOptions(arguments.output_dir, max_steps=arguments.max_steps, lora=LoraOptions(rank=16), form=form)
result = finetune(
    model,
    processor,
    open_clips(arguments.train_data, form),
    open_clips(arguments.eval_data, form),
    options,
    source=arguments.model,
)
print(result.train_report.to_text())
print(f"{result.parameters}.")
for point in result.curve:
    print(f"step {point.step}: word error rate {point.wer:.2%}")
print(f"Best after {result.best.step} steps; written to {result.output_dir}.")
