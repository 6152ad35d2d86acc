"""The `holdfast` command: tables for people, JSON for programs, exit codes that mean something."""
