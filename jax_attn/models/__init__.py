"""The lecture's models: the bigram table, one head, the GPT."""
