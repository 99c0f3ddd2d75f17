"""The verifier: was anything lost, doubled, reordered or changed between what agents said and what the tables hold?

It shares no code with the product: decoding, fingerprints, rules and SQL are its own, restated from docs/schemas,
docs/schema.md and the rules of the domain. See README.md for what each check compares.
"""
