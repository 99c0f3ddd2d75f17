"""What every process needs and no stage should write twice: settings, logging, errors, lifecycle, Kafka, metrics.

Imports nothing of ours, so that every other part may import it.
"""
