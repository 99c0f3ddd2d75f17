"""What every part stands on, and what runs them: runtime, command line, embedded servers, topic and rule files."""
