"""How the small model that ships was trained: tokenizer, data, losses, evaluation. Not part of the package."""
