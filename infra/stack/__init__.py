"""The embedded servers: Kafka, PostgreSQL, VictoriaMetrics and Prometheus without root or a system service.

`stack.Stack` is the only thing callers need. Everything a stack keeps lies below one directory, everything
several stacks share below another (`layout`); servers listen on loopback alone and outlive the program
that started them. A server the user already has is checked and named, never started or stopped.
"""
