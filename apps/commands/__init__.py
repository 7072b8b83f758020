"""The commands of ``edge-sr``: each parses its options, calls one plain function, prints what came back."""
