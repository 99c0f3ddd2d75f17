"""How far the log of intents was taken into this partition, and what proves that a copy is one."""


class IntentLog:
    """Of one partition. Without a secret no copy is believed."""

    __slots__ = ("next_offset", "secret", "topic_id")

    def __init__(self, secret: bytes = b"", topic_id: str = "") -> None:
        self.secret = secret
        self.topic_id = topic_id
        """Of vm.intents, as it is now."""
        self.next_offset = 0
        """Offset in vm.intents of the first record that was not taken."""
