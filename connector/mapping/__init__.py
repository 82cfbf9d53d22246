"""PROMISE: a checked document is a program; a bad row becomes a quarantine entry, never an exception.

Pure, all of it: YAML text in, SQL text and parameters out. `document.load` reads and checks a mapping file,
`program.compile_entity` turns one entity of it into a statement that runs in the staging database.
"""
