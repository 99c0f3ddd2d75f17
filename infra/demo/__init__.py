"""The demonstration: a simulated fleet on the real line, shown live, measured and checked."""
