"""All that eight minutes on an accelerator can tell: `python -m benchmarks.device OUT.jsonl`."""
