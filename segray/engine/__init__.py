"""The torch-only core: augmentation, train step, validation, schedule and Predictor. No Ray here."""
