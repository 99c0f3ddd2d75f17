"""Makes topics, tables and database belong together again after some of them were lost."""
