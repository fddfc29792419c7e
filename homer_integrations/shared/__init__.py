"""What the wrappers share: settings, models loaded once, documents by every road, answers from threads."""
