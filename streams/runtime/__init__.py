"""Runs the pure cores of the stages on Kafka so that no change is lost; see README.md beside this file."""
