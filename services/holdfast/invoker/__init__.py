"""The invoker: nothing starts unbounded, twice, or unfairly."""
