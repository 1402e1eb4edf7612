"""What training never changes: image encoders, SAM's prompt encoder, the embedding cache."""
