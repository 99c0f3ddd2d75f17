"""The version of the rules by which the line works: one number for both stages, raised with a release.

It travels in ticks, observations, partition rows and changes. A worker that meets a higher one than its own must not
guess what it means: it stops with its own exit code, until it is upgraded or the stage is rolled back.
"""

from typing import Final

RULES_VERSION: Final = 1
"""Raised with every change of a rule of either stage that may give other outputs for the same inputs."""
