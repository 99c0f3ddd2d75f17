"""Stream stages: tabled state, pure rules, and the shell that never loses a change."""
