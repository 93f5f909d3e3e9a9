"""The weights of curate's mini models, as data: see MODEL_CARD.md. For non-commercial research only."""
