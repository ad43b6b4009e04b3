"""The torch engine: every layer of a level in one batched product, on a GPU or on the CPU."""
