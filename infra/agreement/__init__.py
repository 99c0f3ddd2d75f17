"""Do fleet, topics and tables say the same? Used by the demo, the tests and whoever doubts."""
