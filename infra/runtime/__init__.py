"""What every process needs: settings, logging, errors, lifecycle, Kafka clients, topics, metrics, health.

Imports nothing of ours, so that every other part may import it.
"""
