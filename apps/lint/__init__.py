"""What an accelerator takes of an artifact: asked of it where it can be, else forecast from rules with sources."""
