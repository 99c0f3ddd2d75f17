"""Runs the parts of the line as processes of one terminal: `deltavisor up` and the demo."""
