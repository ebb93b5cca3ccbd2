"""From a command line to a task: composition, settings, objects, sentences; nothing large."""
