"""The small model that ships: weights, tokenizer, chat template, calibration; see MODEL_CARD.md."""
