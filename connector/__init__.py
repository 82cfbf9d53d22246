"""The Sipol database connector: follows the views of political parties' databases into a shared staging schema.

One idea: the view is the contract; the log only says which keys to look at again. Data flows one way, and a stage
knows the shared words and itself, never another stage.

    errors.py  events.py     the shared words: one error class per reaction; position, signal, outcome
    yamlpos.py  pg.py        leaves that anybody may use: YAML with places, a pinned PostgreSQL session,
    logs.py  failpoint.py      log lines, named places for crash tests,
    embedded.py                servers of our own on a Unix socket,
    resources.py               the files that travel with the program,
    schedule.py                when a job runs, as an operator writes it,
    tls.py                     whether a dsn's server is verified
    capture/                 which view keys may have changed, up to which position
    view/                    what the view says for these keys, as raw COPY blocks
    mapping/                 a checked YAML document becomes one SQL program (pure)
    staging/                 rows, audit entry and position move together or not at all
    audit/                   what was committed can be proved later
    config.py                connector.yaml, checked whole; settings.py what it says, credentials.py secrets by name
    ops/                     all an operator can see or ask
    runtime/                 the pipeline of a party, its retries, its supervisor
    web/                     metrics and probes, from staging's tables alone
    app.py                   composition root: the only file that names concrete classes
    demo/                    parties that do not exist, for showing and testing
    cli/  __main__.py        parser, exit codes, one file per command

Imports go up this list, never down or sideways; `make lint` checks it.
"""

__version__ = "0.1.0"
