"""The records on the wire and in the tables: one message per module, with its version and field ownership."""
